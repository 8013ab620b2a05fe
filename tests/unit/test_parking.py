"""Is the vehicle parked: what its signals say, and that silence says nothing."""

import math
from collections.abc import Iterable

import pytest

from roadloop_agent.drive.frames import Item, Reported, refuse
from roadloop_agent.drive.parking import FRESH_S, SPEEDS, Parking
from roadloop_models.signals import Quality, SignalFrame

AFTER_S = 180.0


class Rig:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.parking = Parking(AFTER_S, lambda: self.now_s)

    def drives(self, speed_mps: float, seconds: float, path: str = SPEEDS[0]) -> bool | None:
        """A frame a second; what is known at the end."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 1.0
            self.parking.show(frame({path: speed_mps}))
        return self.parking.parked()


def frame(speeds: dict[str, float], quality: Quality = Quality.OK) -> SignalFrame:
    return SignalFrame(0.0, speeds, dict.fromkeys(speeds, quality))


@pytest.mark.parametrize("path", SPEEDS)
def test_standing_for_long_is_parked_and_standing_at_a_light_is_not(path: str) -> None:
    rig = Rig()
    assert rig.drives(12.0, 10, path) is False
    assert rig.drives(0.0, AFTER_S, path) is False
    assert rig.drives(0.0, 1, path) is True
    assert rig.drives(0.5, 1, path) is False
    assert rig.drives(0.0, 60, path) is False


def test_driving_backwards_is_driving() -> None:
    rig = Rig()
    rig.drives(0.0, AFTER_S + 1)
    assert rig.drives(-1.0, 1) is False


def test_without_a_speed_nobody_knows() -> None:
    rig = Rig()
    assert rig.parking.parked() is None
    rig.parking.show(frame({"Vehicle.OBD.EngineSpeed": 0.0}))
    rig.parking.show(frame({SPEEDS[0]: math.nan}, Quality.STALE))
    assert rig.parking.parked() is None


def test_a_bus_that_falls_silent_says_nothing_any_more() -> None:
    rig = Rig()
    assert rig.drives(0.0, AFTER_S + 1) is True
    rig.now_s += FRESH_S + 1
    assert rig.parking.parked() is None
    assert rig.drives(0.0, AFTER_S) is False, "it may have driven meanwhile: standing begins anew"
    assert rig.drives(0.0, 1) is True


def test_a_source_is_seen_without_being_changed() -> None:
    rig = Rig()
    items = [Item(1, "", frame({SPEEDS[0]: 3.0})), None, Item(2, "", frame({SPEEDS[0]: 4.0}))]

    def open_items(reported: Reported) -> Iterable[Item | None]:
        return items

    assert list(rig.parking.watching(open_items)(refuse)) == items
    assert rig.parking.parked() is False
