"""Live feeds: a bus that goes off and comes back, a receiver that is unplugged, and what is said meanwhile."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadloop_agent.drive.frames import Item
from roadloop_agent.drive.sources.signals.opening import open_live
from roadloop_agent.signals_config import SignalsSource
from roadloop_models.errors import ConfigError, RoadloopError
from roadloop_models.signals import Quality, SignalFrame
from tests.fakes.can_bus import CAN_ERR_BUSOFF, CAN_ERR_CRTL, FakeBus, FakeInterface
from tests.unit.test_signals_nmea import sentence
from tests.unit.test_signals_sources import DBC, LATITUDE, SPEED, YAW, speed_frame, yaw_frame

DEADLINE_S = 20.0


def live_source(*feeds: dict[str, Any], **signals: Any) -> SignalsSource:
    mapped = {SPEED: {"from": "SPEED.SPEED", "stale_s": 0.3}, YAW: {"from": "KINEMATICS.YAW_RATE"}, **signals}
    return msgspec.convert({"kind": "signals", "rate_hz": 50, "feeds": feeds, "signals": mapped}, SignalsSource)


def can(**table: Any) -> dict[str, Any]:
    return {"kind": "can", "channel": "can0", "dbc": ["car.dbc"], **table}


class Watched:
    """A source that is being read, and what it told."""

    def __init__(self, table: SignalsSource, folder: Path, wanted: tuple[str, ...], interface: FakeInterface) -> None:
        self.told: list[str] = []
        live = open_live(table, folder, wanted, time.monotonic, interface.open)
        self._items: Iterator[Item | None] = live.frames(self._tell)

    def _tell(self, error: RoadloopError) -> None:
        self.told.append(str(error))

    def until(self, wanted: Callable[[SignalFrame], bool]) -> SignalFrame:
        """The first frame that is as wanted."""
        until_s = time.monotonic() + DEADLINE_S
        for item in self._items:
            frame: SignalFrame | None = None if item is None else item.data
            if frame is not None and wanted(frame):
                return frame
            assert time.monotonic() < until_s, f"it never came; told: {self.told[-3:]}"
        raise AssertionError("a live source does not end")

    def until_told(self, text: str) -> SignalFrame:
        """The first frame after something with `text` was told."""
        self.told.clear()
        return self.until(lambda frame: any(text in told for told in self.told))

    def close(self) -> None:
        self._items.close()  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "car.dbc").write_text(DBC)
    return tmp_path


@pytest.fixture
def interface() -> FakeInterface:
    return FakeInterface()


@pytest.fixture
def watched(folder: Path, interface: FakeInterface) -> Iterator[Watched]:
    interface.opened = lambda bus: bus.sends(180, speed_frame(10))
    found = Watched(live_source(can()), folder, (SPEED, YAW), interface)
    yield found
    found.close()


def test_frames_come_at_their_rate_whatever_the_bus_does(watched: Watched, interface: FakeInterface) -> None:
    frame = watched.until(lambda frame: frame.quality[SPEED] is Quality.OK)
    assert frame.values[SPEED] == pytest.approx(10) and frame.quality[YAW] is Quality.NEVER
    assert interface.buses[0].keys == {180, 36}
    stale = watched.until(lambda frame: frame.quality[SPEED] is Quality.STALE)
    assert math.isnan(stale.values[SPEED]) and 0.3 < stale.t_s - frame.t_s < DEADLINE_S
    interface.buses[0].sends(36, yaw_frame(520))
    assert watched.until(lambda frame: frame.quality[YAW] is Quality.OK).values[YAW] == pytest.approx(math.radians(5))


@pytest.mark.parametrize("fault", ["bus off", "down"])
def test_a_bus_that_goes_off_is_reported_and_opened_again(
    watched: Watched, interface: FakeInterface, fault: str
) -> None:
    watched.until(lambda frame: frame.quality[SPEED] is Quality.OK)
    interface.up = False
    bus = interface.buses[0]
    if fault == "bus off":
        bus.has_error_frame(CAN_ERR_CRTL)
        bus.has_error_frame(CAN_ERR_BUSOFF)
        watched.until_told("can0: bus off, after 2 error frames")
    else:
        bus.goes_down()
        watched.until_told("can0: Failed to receive: Network is down")
    assert bus.closed
    frame = watched.until_told("No such device; is the interface there and up")
    assert watched.until(lambda frame: frame.quality[SPEED] is Quality.STALE).t_s >= frame.t_s
    interface.up = True
    watched.until(lambda frame: frame.quality[SPEED] is Quality.OK)
    watched.told.clear()
    watched.until(lambda frame: True)
    assert watched.told == [] and len(interface.buses) == 2


def test_error_frames_are_counted_and_reading_goes_on(watched: Watched, interface: FakeInterface) -> None:
    watched.until(lambda frame: frame.quality[SPEED] is Quality.OK)
    for _ in range(3):
        interface.buses[0].has_error_frame(CAN_ERR_CRTL)
    watched.until_told("can0: 3 error frames")
    interface.buses[0].sends(180, speed_frame(20))
    assert watched.until(lambda frame: frame.quality[SPEED] is Quality.OK).values[SPEED] == pytest.approx(20)
    assert len(interface.buses) == 1


def test_a_silent_bus_is_reported(folder: Path, interface: FakeInterface) -> None:
    found = Watched(live_source(can(silent_s=0.2)), folder, (SPEED,), interface)
    found.until_told("feed 0 (can0): nothing that is used for")
    interface.buses[0].sends(180, speed_frame(10))
    found.until(lambda frame: frame.quality[SPEED] is Quality.OK)
    found.close()


def test_frames_that_are_not_as_the_dbc_has_them_are_reported(watched: Watched, interface: FakeInterface) -> None:
    interface.buses.clear()
    watched.until(lambda frame: frame.quality[SPEED] is Quality.OK)
    interface.buses[0].sends(36, bytes(4))
    watched.until_told("KINEMATICS (0x24): 1 of 1 frames have another length (4 bytes, the DBC says 8)")
    assert watched.until(lambda frame: True).quality[YAW] is Quality.NEVER


def test_a_wall_clock_that_jumps_changes_nothing(
    watched: Watched, interface: FakeInterface, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = watched.until(lambda frame: frame.quality[SPEED] is Quality.OK)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 315_576_000)
    interface.buses[0].sends(180, speed_frame(11))
    after = watched.until(lambda frame: frame.values[SPEED] > 10.5)
    assert 0 < after.t_s - before.t_s < DEADLINE_S


def test_a_dbc_without_the_signal_is_refused_at_once(folder: Path, interface: FakeInterface) -> None:
    wrong = {SPEED: {"from": "SPEED.SPED"}}
    with pytest.raises(ConfigError, match=r"no signal 'SPED' in message SPEED; did you mean 'SPEED'"):
        open_live(live_source(can(), **wrong), folder, (SPEED,), time.monotonic, interface.open)


@pytest.mark.parametrize("fd", [False, True])
def test_python_cans_own_virtual_bus_is_read_and_filtered(folder: Path, fd: bool) -> None:
    from can import Bus, Message

    channel = f"test-{fd}"
    found = open_live(
        live_source(can(interface="virtual", channel=channel, fd=fd)), folder, (SPEED,), time.monotonic
    ).frames(lambda error: None)
    next(found)
    with Bus(channel=channel, interface="virtual") as other:
        other.send(Message(arbitration_id=999, data=bytes(8), is_extended_id=False))
        other.send(Message(arbitration_id=180, data=bytes(8), is_extended_id=True))
        other.send(Message(arbitration_id=180, data=speed_frame(10), is_extended_id=False, is_fd=fd))
        speeds = (item.data.values[SPEED] for item in found if item is not None)
        assert next(speed for speed in speeds if not math.isnan(speed)) == pytest.approx(10)
    found.close()  # type: ignore[attr-defined]


def test_an_interface_that_there_is_not_is_named(folder: Path) -> None:
    told: list[str] = []
    found = open_live(live_source(can(channel="nocan7")), folder, (SPEED,), time.monotonic).frames(
        lambda error: told.append(str(error))
    )
    assert next(item for item in found if item is not None).data.quality[SPEED] is Quality.NEVER
    assert "nocan7: " in told[0] and "is the interface there and up (ip link)?" in told[0]
    unknown = open_live(live_source(can(interface="nosuch")), folder, (SPEED,), time.monotonic)
    with pytest.raises(ConfigError, match="interface 'nosuch'"):
        next(iter(unknown.frames(lambda error: None)))


def test_a_receiver_that_is_unplugged_comes_back_while_the_bus_goes_on(folder: Path, interface: FakeInterface) -> None:
    pipe = folder / "gnss"
    os.mkfifo(pipe)
    line = sentence("GNRMC,123519.50,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W,A")
    interface.opened = lambda bus: bus.sends(180, speed_frame(10))
    table = live_source(can(), {"kind": "nmea", "device": str(pipe)}, **{LATITUDE: {"stale_s": 0.3}})
    found = Watched(table, folder, (SPEED, LATITUDE), interface)
    found.until(lambda frame: frame.quality[SPEED] is Quality.OK)
    with pipe.open("wb", buffering=0) as receiver:
        receiver.write(line[:20])
        receiver.write(line[20:] + b"$GNRMC,broken*11\r\n")
        fix = found.until(lambda frame: frame.quality[LATITUDE] is Quality.OK)
        assert fix.values[LATITUDE] == pytest.approx(48 + 7.038 / 60)
    found.until_told("gnss: the other end was closed; is the receiver plugged in?")
    frame = found.until(lambda frame: frame.quality[LATITUDE] is Quality.STALE)
    assert set(frame.values) == {SPEED, LATITUDE}
    interface.buses[0].sends(180, speed_frame(12))
    assert found.until(lambda frame: frame.quality[SPEED] is Quality.OK).values[SPEED] == pytest.approx(12)
    opened = threading.Event()

    def plug_in_again() -> None:
        with pipe.open("wb", buffering=0) as receiver:
            while not opened.wait(0.05):
                receiver.write(line)

    thread = threading.Thread(target=plug_in_again)
    thread.start()
    found.until(lambda frame: frame.quality[LATITUDE] is Quality.OK)
    opened.set()
    thread.join()
    found.close()


def test_a_serial_device_is_read_as_it_is() -> None:
    from roadloop_agent.drive.sources.signals.gnss_nmea import NmeaDevice

    master, slave = os.openpty()
    device = NmeaDevice(os.ttyname(slave), 9600, {LATITUDE: 3})
    os.write(master, sentence("GNRMC,123519.50,A,4800.000,N,01131.000,E,022.4,084.4,230394,003.1,W,A"))
    assert device.read(5.0) == [(3, 48.0)]
    assert device.read(0.0) == ()
    device.close()
    os.close(master)
    os.close(slave)


def test_a_fake_bus_is_closed_when_nobody_reads_any_more(folder: Path, interface: FakeInterface) -> None:
    closed = threading.Event()

    def watch(bus: FakeBus) -> None:
        bus.shutdown = closed.set  # type: ignore[method-assign]

    interface.opened = watch
    found = Watched(live_source(can()), folder, (SPEED,), interface)
    found.until(lambda frame: True)
    found.close()
    assert closed.wait(DEADLINE_S)
