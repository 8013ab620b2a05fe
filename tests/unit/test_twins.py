"""Digital twins without a network: what a scenario means, and that their spool keeps the rules of the real one."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.config import load_config
from roadloop_agent.link.batcher import Gap, SealedBatch
from roadloop_agent.link.spool import Spool
from roadloop_agent.sim.life import Life
from roadloop_agent.sim.loop import Loop
from roadloop_agent.sim.run import added
from roadloop_agent.sim.scenario import Bad, Fate, Link, Power, Rates, Scenario, fate_of, load_scenario
from roadloop_agent.sim.spool import MemorySpool
from roadloop_agent.sim.turns import Turns
from roadloop_agent.sim.twin import Twin
from roadloop_agent.sim.weather import spells
from roadloop_models.contract.messages import Cursor, SeqRange, StreamCursor
from roadloop_models.errors import ConfigError

SCENARIO = """
seed = 3
[rates]
health_every_s = 0.5
batch_age_s = 1.0
[[links]]
hardware = "pi*"
drop_every_s = 60.0
[[links]]
reorder_s = 0.2
[[power]]
vehicles = "van-1"
cut_every_s = 30.0
[[bad]]
task = "traffic-sign"
version = "v2"
hardware = "pi-5"
effect = "golden"
"""


def test_a_scenario_is_about_slices_of_the_fleet(tmp_path: Path) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(SCENARIO)
    scenario = load_scenario(path)
    mine = fate_of(scenario, "van-1", "pi-5")
    assert mine.link == Link(hardware="pi*", drop_every_s=60.0), "the first that fits counts"
    assert mine.power == Power(vehicles="van-1", cut_every_s=30.0)
    assert mine.of_version("traffic-sign", "v2") == Bad(
        task="traffic-sign", version="v2", hardware="pi-5", effect="golden"
    )
    assert mine.of_version("traffic-sign", "v1") is None
    other = fate_of(scenario, "van-2", "jetson")
    assert (other.link, other.power, other.bad) == (Link(reorder_s=0.2), None, ())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[rates]\nhealth_evry_s = 1.0", "rates.health_evry_s: unknown key; did you mean 'health_every_s'"),
        ("[[links]]\ndrop_every_s = 0.0", "links"),
        ('[[bad]]\ntask = "t"\nversion = "v"\neffect = "sad"', "sad"),
        ("[rates]\nbatch_age_s = 1.0\nhealth_every_s = 2.0", "rates.batch_age_s"),
    ],
)
def test_a_scenario_is_strict(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "scenario.toml"
    path.write_text(line)
    with pytest.raises(ConfigError) as raised:
        load_scenario(path)
    assert problem in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_scenario_without_anything_is_a_quiet_fleet() -> None:
    fate = fate_of(Scenario(), "van-1", "pi")
    assert (fate.link, fate.power, fate.bad) == (None, None, ())


@given(st.integers(0, 1000), st.floats(0.1, 1000), st.floats(0.1, 100))
def test_spells_follow_each_other_and_are_the_same_for_a_seed(seed: int, every_s: float, for_s: float) -> None:
    def first(count: int) -> list[tuple[float, float]]:
        course = spells(Random(seed).random, every_s, for_s)
        return [(spell.begins_s, spell.ends_s) for spell, _ in zip(course, range(count), strict=False)]

    found = first(20)
    assert found == first(20)
    edges = [edge for spell in found for edge in spell]
    assert edges == sorted(edges)
    assert all(0.5 * for_s <= end - begin + 1e-6 and end - begin <= 1.5 * for_s + 1e-6 for begin, end in found)


def test_no_spell_comes_where_none_is_asked_for() -> None:
    assert list(spells(Random(0).random, None, 1.0)) == []


# The two spools.


class Disk:
    """The real spool, with the twin's signature of `append`."""

    def __init__(self, path: Path) -> None:
        self.spool = Spool(path, 64 << 20, 3600.0, 0.0)

    def append(self, entries: list[SealedBatch | Gap]) -> None:
        from collections import deque

        self.spool.append(deque(entries), 0.0)


def batch(first: int, last: int, boot: int = 1) -> SealedBatch:
    return SealedBatch(boot, "health", first, last, b"x" * 100)


def cursor(prefix: int, *ranges: tuple[int, int], epoch: int = 1, boot: int = 1) -> Cursor:
    stream = StreamCursor(boot=boot, stream="health", prefix=prefix, ranges=tuple(SeqRange(*span) for span in ranges))
    return Cursor(epoch=epoch, streams=(stream,))


@pytest.fixture(params=["disk", "memory"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Spool | MemorySpool, Callable[..., None]]:
    """A spool, and how entries are put into it."""
    if request.param == "memory":
        memory = MemorySpool(1 << 20)
        return memory, memory.append
    disk = Disk(tmp_path / "spool.sqlite")
    return disk.spool, disk.append


def seqs(spool: Spool | MemorySpool) -> list[tuple[int, int]]:
    return [(row.first_seq, row.last_seq) for row in spool.pending(100)]


def test_only_what_the_cursor_covers_whole_is_committed(kept: tuple[Spool | MemorySpool, Callable[..., None]]) -> None:
    spool, append = kept
    append([batch(1, 10), batch(11, 20), batch(21, 30), batch(31, 40)])
    effect = spool.apply_cursor(cursor(15, (21, 30)), 0.0)
    assert seqs(spool) == [(11, 20), (31, 40)]
    assert (len(effect.committed), effect.new_epoch) == (2, False)
    assert spool.stats().pending_samples == 20


def test_a_new_epoch_makes_everything_pending_again(kept: tuple[Spool | MemorySpool, Callable[..., None]]) -> None:
    spool, append = kept
    append([batch(1, 10), batch(11, 20)])
    spool.apply_cursor(cursor(20), 0.0)
    assert seqs(spool) == []
    effect = spool.apply_cursor(cursor(10, epoch=2), 0.0)
    assert effect.new_epoch
    assert seqs(spool) == [(11, 20)]


def test_lost_ranges_are_said_until_they_are_covered(kept: tuple[Spool | MemorySpool, Callable[..., None]]) -> None:
    spool, append = kept
    append([Gap(1, "health", 5, 9, "pipe-full"), Gap(1, "health", 1, 2, "link-restart")])
    assert [(each.first_seq, each.last_seq) for each in spool.lost()] == [(1, 2), (5, 9)]
    spool.apply_cursor(cursor(4), 0.0)
    assert [(each.first_seq, each.reason) for each in spool.lost()] == [(5, "pipe-full")]


def test_pending_leaves_out_what_is_in_flight(kept: tuple[Spool | MemorySpool, Callable[..., None]]) -> None:
    spool, append = kept
    append([batch(1, 10), batch(11, 20)])
    first = spool.pending(1)[0]
    assert [row.first_seq for row in spool.pending(10, {first.id})] == [11]


def test_the_twins_spool_is_bounded_and_says_what_it_gives_up() -> None:
    spool = MemorySpool(250)
    spool.append([batch(1, 10), batch(11, 20)])
    spool.apply_cursor(cursor(10), 0.0)
    spool.append([batch(21, 30)])
    assert (seqs(spool), spool.lost()) == ([(11, 20), (21, 30)], []), "what is committed goes first"
    spool.append([batch(31, 40)])
    assert seqs(spool) == [(21, 30), (31, 40)]
    assert [(each.first_seq, each.last_seq) for each in spool.lost()] == [(11, 20)]


# The loop.


def test_the_loop_calls_in_time_and_survives_what_fails() -> None:
    now_s = [0.0]
    loop = Loop(lambda: now_s[0])
    called: list[str] = []

    def fail() -> None:
        raise ValueError

    loop.at(2.0, lambda: called.append("second"))
    loop.at(1.0, lambda: called.append("first"))
    loop.soon(fail)
    loop.soon(lambda: called.append("now"))

    def turned() -> bool:
        now_s[0] += 1.0
        return len(called) == 3

    loop.run(turned)
    loop.close()
    assert called == ["now", "first", "second"]
    assert loop.faults == 1


def test_statuses_of_processes_add_up() -> None:
    one = {"twins": 2, "connected": 1, "produced": 5, "pending": 1, "lost": 0, "faults": 0, "late_s": 0.1}
    status = added(
        [
            {**one, "running": {"t v1": 2}, "states": {"idle": 2}},
            {**one, "running": {"t v1": 1, "t v2": 1}, "states": {"idle": 2}, "late_s": 0.3},
        ]
    )
    assert (status["twins"], status["running"], status["late_s"]) == (4, {"t v1": 3, "t v2": 1}, 0.3)


VEHICLE = Path(__file__).parents[1] / "vectors" / "config" / "vehicle-good.toml"


class SlowWorkers(Executor):
    """Keeps what is submitted until it is asked to do it."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        """Do it later."""
        self.waiting.append(partial(call, *arguments, **named))
        return Future()


class Clock:
    """Time that passes as it is told."""

    now_s = 0.0

    def __call__(self) -> float:
        """In seconds."""
        return self.now_s


class MadeLife:
    """A start that runs until its power is cut."""

    is_over = False

    def begin(self, rates: Rates, phase: float) -> None:
        """Nothing to do."""

    def cut(self) -> None:
        """At once."""
        self.is_over = True


def test_a_twin_whose_power_comes_and_goes_while_it_starts_is_started_once() -> None:
    """Two starts at once write the same files: one of them fails, or both are one vehicle."""
    clock, workers = Clock(), SlowWorkers()
    loop = Loop(clock)
    config = load_config(VEHICLE)
    power = Power(vehicles="*", cut_every_s=1.0, off_for_s=0.5)
    fate = Fate(rates=Rates(), link=None, power=power, bad=())
    twin = Twin(
        config,
        fate,
        seed="s",
        build=lambda _: cast(Life, MadeLife()),
        loop=loop,
        workers=workers,
        turns=Turns(1),
    )
    twin.start()
    pass_time(loop, clock, 60.0)
    assert len(workers.waiting) == 1, "many cuts have come and gone"
    workers.waiting.pop()()
    pass_time(loop, clock, 0.0)
    assert twin.starts == 1 and loop.faults == 0
    pass_time(loop, clock, 60.0)
    assert len(workers.waiting) == 1, "the next cut has ended it, and it comes back"
    loop.close()


def pass_time(loop: Loop, clock: Clock, seconds: float) -> None:
    """Let the loop do all that is due until then, without a wait."""
    clock.now_s += seconds
    for _ in range(2):  # what was done may want something done soon
        loop.soon(lambda: None)
        loop.run(iter([False, True]).__next__)
