"""Which blocks are gathered and sent to all at once: time and requests in, decisions out."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadloop_cloud.fleet.blocks import BlockServer, OutgoingBlock
from roadloop_cloud.fleet.files import ServedFile
from roadloop_cloud.fleet.gathering import FRESH_S, GATHER_S, MAX_WAITING_BLOCKS, Gathering
from roadloop_cloud.fleet.pace import Pace
from roadloop_models.contract.channels import BLOCK_BYTES, FLEET
from roadloop_models.contract.messages import FetchRequest

BLOCKS = 6
FILE = ServedFile("targets/x/" + "a" * 64 + ".model", "a" * 64, BLOCKS * BLOCK_BYTES, bytes(BLOCKS * BLOCK_BYTES), True)
OWN = ServedFile("metadata/timestamp.json", "b" * 64, 10, bytes(10))
FAST = 1e12


class Memory:
    """Two files: one that is the same for all, one that is not."""

    def find(self, vehicle: str, path: str) -> ServedFile | None:
        return {FILE.path: FILE, OWN.path: OWN}.get(path)


def server(pace: float = 1 << 40, together: float = FAST) -> BlockServer:
    return BlockServer(Memory(), lambda _vehicle: int(pace), together)


def ask(blocks: BlockServer, vehicle: str, now_s: float, path: str = FILE.path, last: int = BLOCKS - 1) -> None:
    blocks.request(vehicle, FetchRequest(path=path, blocks=((0, last),), listening=True), now_s)


def sent(blocks: BlockServer, now_s: float) -> list[OutgoingBlock]:
    found = []
    while (block := blocks.next_block(now_s)) is not None:
        found.append(block)
    return found


def test_a_vehicle_that_comes_alone_waits_for_nobody() -> None:
    blocks = server()
    ask(blocks, "v1", 0.0)
    assert [(block.vehicle, block.n) for block in sent(blocks, 0.0)] == [("v1", n) for n in range(BLOCKS)]
    ask(blocks, "v1", 0.1, last=1)
    assert [(block.vehicle, block.n) for block in sent(blocks, 0.1)] == [("v1", 0), ("v1", 1)], "lost ones, at once"


def test_what_several_wait_for_goes_to_all_of_them_once() -> None:
    blocks = server()
    for index in range(100):
        ask(blocks, f"v{index}", index / 1000)
    first = sent(blocks, 0.1)
    assert {block.vehicle for block in first} == {"v0"} and len(first) == BLOCKS
    assert sent(blocks, 0.4) == [] and blocks.wait_s(0.4) is not None
    wait_s = blocks.wait_s(0.4)
    assert wait_s is not None
    together = sent(blocks, 0.4 + wait_s)
    together += sent(blocks, 2.0)
    assert [(block.vehicle, block.n) for block in together] == [(FLEET, n) for n in range(BLOCKS)]
    assert blocks.wait_s(2.0) is None


def test_each_repetition_gathers_for_longer() -> None:
    blocks, times = server(), []
    for step in range(1000):
        now_s = step / 10
        ask(blocks, f"v{step}", now_s, last=0)
        times += [now_s for block in sent(blocks, now_s) if block.vehicle == FLEET]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] == pytest.approx(2.0, abs=0.11) and max(gaps) == pytest.approx(4.0, abs=0.11)
    assert len(times) < 30, "a thousand vehicles, one after the other"


def test_who_does_not_listen_is_answered_alone() -> None:
    blocks = server()
    ask(blocks, "v1", 0.0)
    blocks.request("old", FetchRequest(path=FILE.path, blocks=((0, 1),)), 0.0)
    assert [block.n for block in sent(blocks, 0.0) if block.vehicle == "old"] == [0, 1]


def test_what_is_for_one_vehicle_never_goes_to_all() -> None:
    blocks = server()
    for vehicle in ("v1", "v2", "v3"):
        ask(blocks, vehicle, 0.0, OWN.path)
        ask(blocks, vehicle, 0.0, "targets/none")
    assert {block.vehicle for block in sent(blocks, 0.0)} == {"v1", "v2", "v3"}
    assert sent(blocks, 100.0) == []


def test_a_wish_that_nobody_joined_is_answered_alone() -> None:
    blocks = server()
    ask(blocks, "v1", 0.0)
    sent(blocks, 0.0)
    ask(blocks, "v2", 0.2)
    assert {block.vehicle for block in sent(blocks, 2.0)} == {"v2"}


def test_what_was_sent_long_ago_is_fresh_no_more() -> None:
    blocks = server()
    ask(blocks, "v1", 0.0)
    sent(blocks, 0.0)
    ask(blocks, "v2", FRESH_S + 1.0)
    assert {block.vehicle for block in sent(blocks, FRESH_S + 1.0)} == {"v2"}, "at once"


def test_all_are_sent_to_at_the_pace_of_the_slowest() -> None:
    gathering = Gathering(FAST)
    for vehicle, pace in (("v1", FAST), ("fast", FAST), ("slow", 2.0 * BLOCK_BYTES)):
        for n in range(BLOCKS):
            gathering.join(vehicle, pace, FILE, n, 0.0)
    times = []
    for step in range(1000):
        while gathering.take(step / 100) is not None:
            times.append(step / 100)
    assert len(times) == BLOCKS
    assert times[-1] - times[0] == pytest.approx((BLOCKS - 1) / 2, abs=0.3)


def test_all_together_are_sent_no_more_than_is_configured() -> None:
    gathering = Gathering(20.0 * BLOCK_BYTES)
    for index in range(11):
        for n in range(BLOCKS):
            gathering.join(f"v{index}", FAST, FILE, n, 0.0)
    times = []
    for step in range(1000):
        while gathering.take(step / 100) is not None:
            times.append(step / 100)
    assert len(times) == BLOCKS
    assert times[-1] - times[1] == pytest.approx((BLOCKS - 2) / 2, abs=0.3), "two blocks a second to ten vehicles"


def test_what_one_vehicle_waits_for_is_bounded() -> None:
    gathering = Gathering(FAST)
    large = ServedFile("targets/x/large", "c" * 64, 5000 * BLOCK_BYTES, b"", True)
    for n in range(5000):
        gathering.join("v1", FAST, large, n, 0.0)
        gathering.join("greedy", FAST, large, n, 0.0)
    taken = 0
    while gathering.take(1000.0) is not None:
        taken += 1
    assert taken == MAX_WAITING_BLOCKS


@settings(max_examples=50)
@given(seed=st.integers(0, 1 << 30), vehicles=st.integers(1, 30), loss=st.floats(0, 0.3))
def test_everybody_gets_everything_whatever_is_lost(seed: int, vehicles: int, loss: float) -> None:
    """Vehicles ask for what they lack every four seconds, as the assembler does."""
    rng = random.Random(seed)
    blocks = server(pace=8 * BLOCK_BYTES, together=8.0 * BLOCK_BYTES * vehicles)
    missing = {f"v{index}": set(range(BLOCKS)) for index in range(vehicles)}
    due_s = {vehicle: rng.random() * 5 for vehicle in missing}
    now_s = 0.0
    while any(missing.values()):
        assert now_s < 600, missing
        for vehicle, numbers in missing.items():
            if numbers and now_s >= due_s[vehicle]:
                due_s[vehicle] = now_s + 4.0
                ranges = tuple((n, n) for n in sorted(numbers))
                blocks.request(vehicle, FetchRequest(path=FILE.path, blocks=ranges, listening=True), now_s)
        for block in sent(blocks, now_s):
            for vehicle in missing if block.vehicle == FLEET else [block.vehicle]:
                if rng.random() >= loss:
                    missing[vehicle].discard(block.n)
        now_s += 0.05


def test_a_pace_lets_through_what_it_says() -> None:
    pace, sent_bytes = Pace.full(1000.0, 0.0), 0
    for step in range(1001):
        pace.refill(step / 100)
        if pace.may_send:
            pace.spend(100)
            sent_bytes += 100
    assert sent_bytes == pytest.approx(10_000 + pace.burst_bytes, abs=200)


def test_gathering_takes_a_moment_only() -> None:
    assert GATHER_S <= 1.0, "the second vehicle of a fleet should not notice"


def test_a_slow_fleet_waits_no_longer_than_its_patience() -> None:
    gathering, times = Gathering(FAST), []
    for step in range(3000):
        now_s = step / 10
        for vehicle in ("v1", "v2"):
            gathering.join(f"{vehicle}-{step}", 1024.0, FILE, 0, now_s)
        while gathering.take(now_s) is not None:
            times.append(now_s)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= 64.1, "a block at 1 KiB/s takes 64 s; nothing is added to that"


def test_vehicles_that_come_over_a_minute_take_a_small_share_of_the_sendings() -> None:
    blocks = server(pace=4 << 20, together=64.0 * (1 << 20))
    missing = {f"v{index}": set(range(BLOCKS)) for index in range(100)}
    rng, count, now_s = random.Random(3), 0, 0.0
    due_s = {vehicle: rng.random() * 60 for vehicle in missing}
    listening: set[str] = set()
    while any(missing.values()):
        for vehicle, numbers in missing.items():
            if numbers and now_s >= due_s[vehicle]:
                due_s[vehicle] = now_s + 4.0
                listening.add(vehicle)
                ranges = tuple((n, n) for n in sorted(numbers))
                blocks.request(vehicle, FetchRequest(path=FILE.path, blocks=ranges, listening=True), now_s)
        for block in sent(blocks, now_s):
            count += 1
            for vehicle in listening if block.vehicle == FLEET else [block.vehicle]:
                missing[vehicle].discard(block.n)
        now_s += 0.02
    assert count / 100 / BLOCKS < 0.2
