"""Over which network interface an address is reached, from the kernel's routing tables as text. Linux."""

import ipaddress
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from roadloop_agent.link.budget import LinkClass

_UP, _REJECT = 0x1, 0x200
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Route:
    """One line of a table."""

    network: Network
    metric: int
    interface: str


def read_routes() -> list[Route]:
    """The tables of this machine; empty where it does not show them."""
    routes: list[Route] = []
    for path, parse in ((Path("/proc/net/route"), parse_ipv4), (Path("/proc/net/ipv6_route"), parse_ipv6)):
        try:
            text = path.read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        routes += parse(text)
    return routes


def parse_ipv4(table: str) -> Iterator[Route]:
    """/proc/net/route: interface, destination, gateway, flags, …, metric (column 6), mask; addresses as the processor
    stores them."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 8 or not _is_usable(fields[3]):
            continue
        destination, mask = (int(fields[column], 16).to_bytes(4, sys.byteorder) for column in (1, 7))
        prefix = int.from_bytes(mask, "big").bit_count()
        yield Route(ipaddress.IPv4Network((destination, prefix), strict=False), int(fields[6]), fields[0])


def parse_ipv6(table: str) -> Iterator[Route]:
    """/proc/net/ipv6_route: destination, prefix length, source (2), gateway, metric, …, flags, interface."""
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < 10 or not _is_usable(fields[8]) or fields[9] == "lo":
            continue
        network = ipaddress.IPv6Network((bytes.fromhex(fields[0]), int(fields[1], 16)), strict=False)
        yield Route(network, int(fields[5], 16), fields[9])


def interface_of(address: str, routes: Sequence[Route]) -> str | None:
    """The interface of the longest matching prefix, of those the least metric; None where no route matches."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return None
    matching = [route for route in routes if ip in route.network]
    best = min(matching, key=lambda route: (-route.network.prefixlen, route.metric), default=None)
    return None if best is None else best.interface


def classifier(
    metered: Sequence[str], default: LinkClass, routes: Callable[[], Sequence[Route]]
) -> Callable[[str], tuple[LinkClass, str | None]]:
    """From the broker's address to (class of the link, interface); `metered` are patterns of interface names."""

    def classify(address: str) -> tuple[LinkClass, str | None]:
        interface = interface_of(address, routes())
        if interface is None:
            return default, None
        return "metered" if any(fnmatchcase(interface, pattern) for pattern in metered) else "unmetered", interface

    return classify


def _is_usable(flags: str) -> bool:
    return bool(int(flags, 16) & _UP) and not int(flags, 16) & _REJECT
