"""The bytes of a day: clocks that jump, processes that are killed, routes as the kernel writes them."""

import itertools
import sys
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.link.budget import PACKET_BYTES, LinkClass, Traffic
from roadloop_agent.link.metering import Metering
from roadloop_agent.link.routes import classifier, interface_of, parse_ipv4, parse_ipv6, read_routes
from roadloop_models.day import DAY_S
from roadloop_models.errors import DiskFullError

YEAR_S = 365 * DAY_S
NOW_S = 1.7e9


@dataclass(frozen=True)
class Limits:
    """What `[network]` says of a class of links."""

    bytes_per_day: int = 0
    sends: Literal["all", "highlights"] = "all"


def make(limit: int, facts: dict[str, float] | None = None) -> Traffic:
    return Traffic({"metered": Limits(limit, "highlights"), "unmetered": Limits()}, facts or {})


def test_each_class_has_its_own_count() -> None:
    traffic = make(1000)
    traffic.use("metered", "wwan0")
    traffic.spend(1000 - PACKET_BYTES)
    assert not traffic.has_room(1) and traffic.highlights_only
    traffic.use("unmetered", "eth0")
    traffic.spend(10**9)
    assert traffic.has_room(10**9) and not traffic.highlights_only
    traffic.use("metered", "wwan0")
    assert traffic.view().spent_bytes == 1000 and traffic.view().interface == "wwan0"


def test_a_day_ends_after_24_hours_with_a_clock_that_stands_still() -> None:
    traffic = make(1000)
    traffic.use("metered", None)
    traffic.tick(0.0, NOW_S)
    traffic.spend(2000)
    traffic.tick(DAY_S - 1, NOW_S)
    assert not traffic.has_room(1)
    traffic.tick(DAY_S, NOW_S)
    assert traffic.has_room(1)


def test_time_that_the_vehicle_was_off_counts() -> None:
    traffic = make(1000)
    traffic.use("metered", None)
    traffic.tick(50.0, NOW_S)
    traffic.spend(2000)
    again = make(1000, traffic.facts(ended=True))
    again.use("metered", None)
    again.tick(3.0, NOW_S + 3600)
    assert not again.has_room(1)
    later = make(1000, again.facts(ended=True))
    later.use("metered", None)
    later.tick(3.0, NOW_S + 20 * DAY_S)
    assert later.has_room(1)


@pytest.mark.parametrize("jump_s", [10 * YEAR_S, -10 * YEAR_S])
def test_a_clock_that_jumps_ten_years_neither_frees_nor_locks(jump_s: float) -> None:
    traffic = make(1000)
    traffic.use("metered", None)
    traffic.tick(0.0, NOW_S)
    freed = 0
    for hour in range(1, 24):
        traffic.spend(2000)
        traffic.tick(3600.0 * hour, NOW_S + 3600.0 * hour + (jump_s if hour % 2 else 0.0))
        freed += traffic.has_room(1)
    assert freed <= 1
    traffic.tick(2 * DAY_S, NOW_S)
    assert traffic.has_room(1)


@given(
    st.lists(
        st.tuples(
            st.floats(0, DAY_S / 2),  # monotonic time that passes
            st.floats(-10 * YEAR_S, 10 * YEAR_S),  # what the wall clock says more
            st.integers(0, 3000),
            st.booleans(),  # killed, and started again
        ),
        max_size=30,
    )
)
def test_no_more_days_are_granted_than_have_passed_and_one_a_start(
    steps: list[tuple[float, float, int, bool]],
) -> None:
    limit, traffic = 10_000, make(10_000)
    traffic.use("metered", None)
    mono_s, starts, sent = 0.0, 1, 0
    kept: dict[str, float] = {}
    traffic.tick(mono_s, NOW_S)
    for passed_s, error_s, size, killed in steps:
        mono_s += passed_s
        traffic.tick(mono_s, NOW_S + mono_s + error_s)
        while traffic.has_room(size):
            traffic.spend(size)
            sent += size + PACKET_BYTES
            if traffic.is_unsaved():
                kept = traffic.facts()
        if killed:
            traffic, starts = make(limit, kept), starts + 1
            traffic.use("metered", None)
        assert sent <= limit * (mono_s // DAY_S + 1 + starts)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=100), st.integers(0, 99))
def test_a_kill_frees_nothing(sizes: list[int], killed_after: int) -> None:
    """What is written down is never less than what was spent, and not much more."""
    limit = 1 << 20
    traffic, kept, spent = make(limit), dict[str, float](), 0
    traffic.use("metered", None)
    traffic.tick(0.0, NOW_S)
    for index, size in enumerate(sizes):
        traffic.spend(size)
        spent += size + PACKET_BYTES
        if traffic.is_unsaved():
            kept = traffic.facts()
        if index == killed_after:
            break
    again = make(limit, kept)
    again.use("metered", None)
    assert spent <= again.view().spent_bytes <= spent + limit // 64


def test_the_count_is_written_before_it_is_needed_and_a_full_disk_stops_nothing() -> None:
    traffic, kept = make(1 << 20), list[dict[str, float]]()
    clock = itertools.count()
    metering = Metering(traffic, lambda _: ("metered", "ppp0"), kept.append, lambda: float(next(clock)), lambda: NOW_S)
    metering.connected("192.0.2.1")
    metering.tick()
    traffic.spend(100)
    metering.settle()
    traffic.spend(100)
    metering.settle()  # within what was written
    assert len(kept) == 1 and kept[0]["spent_bytes.metered"] >= 200
    metering.settle(ended=True)
    assert kept[1]["spent_bytes.metered"] == 200 + 2 * PACKET_BYTES

    def full(_: dict[str, float]) -> None:
        raise DiskFullError("full")

    Metering(traffic, lambda _: ("metered", None), full, lambda: 0.0, lambda: NOW_S).settle(ended=True)


HEADER = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


def route(interface: str, network: str, prefix: int, metric: int = 0, flags: int = 3) -> str:
    def stored(number: int) -> str:
        return f"{int.from_bytes(number.to_bytes(4, 'big'), sys.byteorder):08X}"

    address = int.from_bytes(bytes(map(int, network.split("."))), "big")
    mask = (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF
    columns = [
        interface,
        stored(address),
        "00000000",
        f"{flags:04X}",
        "0",
        "0",
        str(metric),
        stored(mask),
        "0",
        "0",
        "0",
    ]
    return "\t".join(columns) + "\n"


IPV4 = HEADER + "".join(
    [
        route("wwan0", "0.0.0.0", 0, metric=700),
        route("wlan0", "0.0.0.0", 0, metric=600),
        route("eth0", "198.51.100.0", 24),
        route("eth1", "198.51.100.0", 28),
        route("tun0", "203.0.113.0", 24, flags=0x203),  # rejected
        route("tun1", "203.0.113.0", 24, flags=0x2),  # not up
    ]
)
ANY = "0" * 32
IPV6 = (
    f"20010db8000000000000000000000000 20 {ANY} 00 {ANY} 00000100 00000001 00000000 00000001 usb0\n"
    f"{ANY} 00 {ANY} 00 fe800000000000000000000000000001 00000400 00000002 00000000 00000003 wwan0\n"
    f"{ANY} 00 {ANY} 00 {ANY} ffffffff 00000001 00000000 00200200 lo\n"
)


@pytest.mark.parametrize(
    ("address", "interface"),
    [
        ("192.0.2.7", "wlan0"),  # of two default routes the one of less metric
        ("198.51.100.200", "eth0"),
        ("198.51.100.3", "eth1"),  # the longer prefix
        ("203.0.113.9", "wlan0"),
        ("::ffff:198.51.100.3", "eth1"),
        ("2001:db8::5", "usb0"),
        ("2001:dc8::5", "wwan0"),
        ("fe80::1%eth0", "wwan0"),
        ("127.0.0.1", None),
        ("::1", None),
        ("", None),
        ("broker.example", None),
    ],
)
def test_the_route_to_the_broker_names_its_interface(address: str, interface: str | None) -> None:
    assert interface_of(address, [*parse_ipv4(IPV4), *parse_ipv6(IPV6)]) == interface


@pytest.mark.parametrize(
    ("address", "default", "expected"),
    [
        ("2001:db8::5", "unmetered", ("metered", "usb0")),
        ("192.0.2.7", "metered", ("unmetered", "wlan0")),
        ("127.0.0.1", "unmetered", ("unmetered", None)),
        ("127.0.0.1", "metered", ("metered", None)),
    ],
)
def test_patterns_say_which_interfaces_are_metered(
    address: str, default: LinkClass, expected: tuple[str, str | None]
) -> None:
    classify = classifier(("wwan*", "usb*"), default, lambda: [*parse_ipv4(IPV4), *parse_ipv6(IPV6)])
    assert classify(address) == expected


def test_the_tables_of_this_machine_can_be_read() -> None:
    assert all(route.interface for route in read_routes())
