"""The temperature as sysfs tells it, and slots whose frames expire, are shed and come back."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.capture import Capture, Subscriber
from roadloop_agent.drive.frames import Frame, Mailbox
from roadloop_agent.drive.governor import FLOOR, STRIKES, Band
from roadloop_agent.drive.handlers import Around, Outcome
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.regulator import PERIOD_S, Pace, Regulated, Regulator, Work
from roadloop_agent.drive.roll import CaptureRoll
from roadloop_agent.drive.slots import Slot
from roadloop_agent.drive.thermal import Thermometer, band_of, read_temperature, zone_types
from roadloop_agent.hardware_config import ThermalTable
from tests.fakes.pipes import FakePipe

TABLE = ThermalTable(warm_c=70, hot_c=80, critical_c=90, hysteresis_c=5)


# The temperature.


def zone(root: Path, number: int, kind: str, temp: str) -> Path:
    """One zone as the kernel shows it; returns the file of its temperature."""
    folder = root / f"thermal_zone{number}"
    folder.mkdir(exist_ok=True)
    (folder / "type").write_text(f"{kind}\n")
    (folder / "temp").write_text(temp)
    return folder / "temp"


def test_the_hottest_of_the_wanted_zones_counts(tmp_path: Path) -> None:
    zone(tmp_path, 0, "cpu-thermal", "61500\n")
    zone(tmp_path, 1, "gpu-thermal", "72000\n")
    zone(tmp_path, 2, "battery", "99000\n")
    assert read_temperature(tmp_path, ("cpu-thermal", "gpu-*")) == 72.0
    assert read_temperature(tmp_path, ()) == 99.0
    assert read_temperature(tmp_path, ("npu",)) is None
    assert zone_types(tmp_path) == ["cpu-thermal", "gpu-thermal", "battery"]


@pytest.mark.parametrize("broken", ["", "hot", "-274000\n", "0x10", "9999999\n"])
def test_a_sensor_that_is_off_or_talks_nonsense_is_left_out(tmp_path: Path, broken: str) -> None:
    zone(tmp_path, 0, "cpu-thermal", broken)
    assert read_temperature(tmp_path, ()) is None
    zone(tmp_path, 1, "cpu-thermal", "50000")
    (tmp_path / "thermal_zone2").mkdir()  # gone while it is looked at
    assert read_temperature(tmp_path, ()) == 50.0


def test_a_band_begins_at_its_threshold_and_ends_below_it() -> None:
    band, bands = Band.NORMAL, []
    for temperature_c in (69, 70, 66, 65, 64, 85, 76, 74, 95, 86, 84, 60):
        band = band_of(band, temperature_c, TABLE)
        bands.append(band.name)
    assert bands == [
        "NORMAL", "WARM", "WARM", "WARM", "NORMAL", "HOT", "HOT", "WARM", "CRITICAL", "CRITICAL", "HOT", "NORMAL",
    ]  # fmt: skip


@given(st.lists(st.floats(0, 150), min_size=1), st.sampled_from(Band))
def test_a_band_is_never_cooler_than_its_threshold_nor_hotter_than_the_hysteresis(
    temperatures_c: list[float], band: Band
) -> None:
    for temperature_c in temperatures_c:
        before, band = band, band_of(band, temperature_c, TABLE)
        reached = band_of(Band.NORMAL, temperature_c, TABLE)
        assert band >= reached
        assert band <= max(before, reached)
        assert band <= band_of(Band.NORMAL, temperature_c + TABLE.hysteresis_c, TABLE)
        assert band_of(band, temperature_c, TABLE) == band  # a temperature that stays changes nothing


def test_a_computer_without_sensors_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    thermometer = Thermometer(TABLE, tmp_path / "nowhere", said.append)
    assert [thermometer.read() for _ in range(3)] == [Band.NORMAL] * 3
    assert len(said) == 1 and "no temperature can be read" in said[0] and "its zones are: none" in said[0]


def test_a_sensor_that_fails_while_it_is_hot_cools_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    temp = zone(tmp_path, 0, "cpu-thermal", "92000")
    thermometer = Thermometer(TABLE, tmp_path, said.append)
    assert thermometer.read() == Band.CRITICAL
    temp.write_text("")
    assert (thermometer.read(), thermometer.temperature_c) == (Band.CRITICAL, None)
    temp.write_text("40000")
    assert thermometer.read() == Band.NORMAL
    assert said[0] == "temperature: critical, at 92.0 degC"
    assert said[-1] == "temperature: normal, at 40.0 degC"


# The shares.


class Rig:
    """Three slots, a clock that is turned by hand, and a thermometer over a made sysfs."""

    def __init__(self, root: Path) -> None:
        self.now_s = 100.0
        self.temp = zone(root, 0, "cpu-thermal", "40000")
        self.works = {name: Work() for name in ("top", "middle", "low")}
        self.subscribers = {name: Subscriber(Mailbox(), 0.0) for name in self.works}
        self.regulator = Regulator(
            [
                Regulated(name, priority, self.works[name], self.subscribers[name])
                for name, priority in (("top", 90), ("middle", 50), ("low", 10))
            ],
            Thermometer(TABLE, root, lambda _: None),
            lambda: self.now_s,
        )

    def period(self, late: str = "") -> None:
        for name, work in self.works.items():
            work.frames += 10
            work.late += 4 * (name == late)
            work.expired += 2 * (name == late)
        self.now_s += PERIOD_S
        self.regulator.poll()

    def shares(self) -> list[float]:
        return [subscriber.share for subscriber in self.subscribers.values()]


def test_a_late_slot_takes_rate_from_the_least_important_one(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for _ in range(STRIKES):
        rig.period(late="top")
    assert rig.shares() == [1.0, 1.0, 0.5]
    assert rig.regulator.pace("top") == Pace(late=8, expired=4, temperature_c=40.0)
    assert rig.regulator.pace("low").share == 0.5
    for _ in range(FLOOR * STRIKES):
        rig.period(late="top")
    assert rig.shares() == [1.0, 0.5, 0.125]
    for _ in range(100):
        rig.period()
    assert rig.shares() == [1.0, 1.0, 1.0]


def test_heat_takes_rate_by_priority_and_is_reported(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    shares = {}
    for temp in ("71000", "81000", "91000"):
        rig.temp.write_text(temp)
        rig.period()
        shares[rig.regulator.pace("low").band.name] = rig.shares()
    assert shares == {"WARM": [1.0, 1.0, 0.5], "HOT": [1.0, 0.125, 0.125], "CRITICAL": [1.0, 0.0, 0.0]}
    assert rig.regulator.pace("top") == Pace(band=Band.CRITICAL, temperature_c=91.0)
    rig.temp.write_text("50000")
    for _ in range(100):
        rig.period()
    assert rig.shares() == [1.0, 1.0, 1.0]


def test_between_periods_nothing_is_judged(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.temp.write_text("91000")
    rig.regulator.poll()
    assert rig.shares() == [1.0, 1.0, 1.0]
    rig.now_s += 1000 * PERIOD_S  # a suspend: one period, not a thousand
    rig.regulator.poll()
    rig.works["top"].late += 100
    rig.regulator.poll()
    assert rig.regulator.pace("top").share == 1.0


def test_a_slot_that_is_not_regulated_has_its_whole_rate() -> None:
    assert Regulator([], None, lambda: 0.0).pace("replay") == Pace()


# What is shed is counted.


@given(st.sampled_from([1.0, 0.5, 0.25, 0.125, 0.0]), st.integers(0, 200))
def test_shed_and_delivered_frames_are_all_there_are_and_evenly_spread(share: float, frames: int) -> None:
    subscriber = Subscriber(Mailbox(), 0.0, share=share)
    delivered = [number for number in range(frames) if subscriber.admits()]
    assert len(delivered) + subscriber.shed == frames
    assert len(delivered) == int(frames * share)
    assert {after - before for before, after in pairwise(delivered)} <= ({round(1 / share)} if share else set())


def test_a_source_delivers_the_share_and_its_slots_count_the_rest() -> None:
    box = Mailbox()
    subscriber = Subscriber(box, 0.1, share=0.25)
    capture = Capture(
        name="camera",
        open_items=lambda _: [],
        period_s=0.1,
        pace="rate",
        loop=False,
        subscribers=[subscriber],
        clock=time.monotonic,
        wall_ms=lambda: 0,
    )
    taken = []
    for number in range(40):
        capture._deliver(Frame(number, 10 + number * 0.1, 0, None))
        frame = box.take(0.0)
        taken += [] if frame is None else [frame.number]
    assert taken == list(range(3, 40, 4)) and subscriber.shed == 30 and box.dropped == 0


# What comes too late is given up.


def until(reached: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 10
    while not reached():
        assert time.monotonic() < until_s
        time.sleep(0.002)


class Takes:
    """A handler that takes as long as a frame says."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def handle(self, frame: Frame, model: Model | None, around: Around) -> Outcome:
        """Turns the clock."""
        self.now_s += frame.data
        return Outcome(decided=True, latency_us=frame.data * 1e6)


def test_a_frame_older_than_the_deadline_is_given_up_and_a_late_decision_is_counted() -> None:
    handler = Takes()
    table = SlotTable(task="traffic-sign", runtime="onnx", source="camera", rate_hz=10.0, deadline_ms=100.0)
    box, outbox = Mailbox(), Outbox(FakePipe(), 1, lambda: handler.now_s)
    slot = Slot(
        name="sign",
        table=table,
        handler=handler,
        mailbox=box,
        outbox=outbox,
        announce=lambda *_: None,
        roll=CaptureRoll(1, outbox, {"sign": 1}, bytes),
        clock=lambda: handler.now_s,
        deadline_s=0.1,
    )
    decided = 0

    def handled() -> tuple[int, int]:
        nonlocal decided
        decided += sum(tally.decisions for tally in slot.collect())
        return decided, slot.work.expired

    stop = threading.Event()
    thread = threading.Thread(target=slot.run, args=(stop, lambda: None))
    thread.start()
    try:
        for number, (age_s, takes_s) in enumerate(((0.0, 0.05), (0.2, 0.0), (0.06, 0.06), (5.0, 0.0))):
            box.put_latest(Frame(number, handler.now_s - age_s, 0, takes_s))
            until(lambda number=number: sum(handled()) == number + 1)  # type: ignore[misc]
    finally:
        stop.set()
        thread.join(10)
    assert decided == 2
    assert (slot.work.frames, slot.work.late, slot.work.expired) == (4, 1, 2)
    assert slot.work.busy_s == pytest.approx(0.11)
