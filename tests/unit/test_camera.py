"""A live camera that is unplugged, hangs, freezes, garbles and changes its size: the loop goes on."""

import threading
import time
from collections.abc import Callable
from typing import Self

import numpy as np
import pytest

from roadloop_agent.drive.capture import Capture, Subscriber
from roadloop_agent.drive.frames import Frame, Mailbox, refuse
from roadloop_agent.drive.sources.camera import Camera
from roadloop_models.errors import RetryLaterError, RoadloopError
from tests.fakes.camera import WAIT_S, FakeCamera


class Rig:
    """A camera, the thread that captures it, and one slot's mailbox."""

    def __init__(self, timeout_s: float = WAIT_S, frozen_s: float | None = None, rotate: int = 0) -> None:
        self.hardware = FakeCamera()
        self.camera = Camera(
            self.hardware.device,
            open_timeout_s=timeout_s,
            timeout_s=timeout_s,
            frozen_s=frozen_s,
            rotate=rotate,
            clock=time.monotonic,
        )
        self.mailbox, self.stop, self.beats = Mailbox(), threading.Event(), 0
        self.capture = Capture(
            name="front",
            open_items=self.camera.frames,
            period_s=0.0,
            pace="live",
            loop=True,
            subscribers=[Subscriber(self.mailbox, 0.0)],
            clock=time.monotonic,
            wall_ms=lambda: 0,
            reopen_s=0.01,
            reopen_max_s=0.02,
        )
        self.thread = threading.Thread(target=self.capture.run, args=(self.stop, self._beat))

    def _beat(self) -> None:
        self.beats += 1

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.hardware.hang(False)
        self.hardware.unplug()  # so that a reader left behind ends with the test
        self.thread.join(WAIT_S)
        assert not self.thread.is_alive()

    def take(self) -> Frame:
        frame = self.mailbox.take(WAIT_S)
        assert frame is not None, self.capture.collect_error()
        return frame

    def wait_for_error(self, says: str) -> None:
        error: RoadloopError | None = None

        def said() -> bool:
            nonlocal error
            error = self.capture.collect_error() or error
            return error is not None and says in str(error)

        wait(said, lambda: f"'{says}'; the last error is {error!r}")


def wait(reached: Callable[[], bool], what: Callable[[], str]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < until_s, f"waited in vain: {what()}"
        time.sleep(0.002)


def test_frames_come_as_rgb_with_both_clocks_and_without_a_pace_of_ours() -> None:
    with Rig() as rig:
        before_s = time.monotonic()
        rig.hardware.show(200, t_source_s=7.25)
        frame = rig.take()
        assert (frame.number, frame.t_source_s, frame.data.shape) == (0, 7.25, (48, 64, 3))
        assert before_s <= frame.t_mono_s <= time.monotonic()
        assert frame.data[0, 0].tolist() == [0, 0, 200]  # what was blue first is blue last
        rig.hardware.show(201)
        assert rig.take().number == 1
        assert rig.capture.collect_error() is None


def test_an_unplugged_camera_is_reported_and_comes_back_without_a_restart() -> None:
    with Rig() as rig:
        rig.hardware.show(1)
        assert rig.take().number == 0
        rig.hardware.unplug()
        rig.wait_for_error("gives no more frames; is it still plugged in")
        rig.wait_for_error("there is no such device")
        rig.hardware.plug()
        rig.hardware.wait_opened(2)
        rig.hardware.show(2)
        assert rig.take().number == 1  # numbers go on: none is given twice
        assert rig.capture.collect_error() is None


def test_a_read_that_hangs_stops_neither_the_heartbeat_nor_the_way_back() -> None:
    with Rig(timeout_s=0.15) as rig:
        rig.hardware.show(1)
        rig.take()
        rig.hardware.hang(True)
        rig.wait_for_error("no new frame for 0.15 s")
        beats = rig.beats
        rig.wait_for_error("hangs in 3 reads")  # no more threads are spent on it
        assert rig.hardware.opened == 3 and rig.beats > beats
        rig.hardware.hang(False)

        def shown() -> bool:  # some frames still fall to reads that were left behind: nobody sees them there
            rig.hardware.show(9)
            return rig.mailbox.take(0.01) is not None

        wait(shown, lambda: "a frame")
        assert rig.hardware.opened == 4 and rig.capture.collect_error() is None


def test_a_camera_that_never_gives_a_first_frame_is_opened_again() -> None:
    with Rig(timeout_s=0.1) as rig:
        rig.wait_for_error("no first frame for 0.1 s")
        rig.hardware.wait_opened(2)


def test_an_hour_that_passes_at_once_is_a_suspend_and_no_missing_frame() -> None:
    hardware, now_s = FakeCamera(), 0.0

    def clock() -> float:  # each look at it finds an hour gone
        nonlocal now_s
        now_s += 3600.0
        return now_s

    camera = Camera(hardware.device, open_timeout_s=5.0, timeout_s=5.0, frozen_s=None, rotate=0, clock=clock)
    frames = camera.frames(refuse)
    hardware.show(1)
    assert any(item is not None for item in frames)
    assert next(frames) is None and next(frames) is None
    hardware.unplug()
    with pytest.raises(RetryLaterError, match="gives no more frames"):
        list(frames)


def test_a_frozen_picture_is_noticed_where_that_is_asked_for() -> None:
    with Rig(frozen_s=0.05) as rig:

        def noticed() -> bool:
            rig.hardware.show(5)
            return "the camera is frozen" in str(rig.capture.collect_error())

        wait(noticed, lambda: "frozen")
        rig.hardware.wait_opened(2)
    with Rig(frozen_s=None) as rig:
        for _ in range(3):
            rig.hardware.show(5)
            rig.take()
        assert rig.capture.collect_error() is None


def test_a_garbled_frame_is_passed_over_and_said() -> None:
    with Rig() as rig:
        rig.hardware.show(1)
        assert rig.take().number == 0
        rig.hardware.garble()
        rig.hardware.garble()
        rig.hardware.show(2)
        assert rig.take().number == 1
        assert "2 frames before #1 could not be read" in str(rig.capture.collect_error())
        assert rig.capture.collect_error() is None  # said once
        assert rig.hardware.opened == 1


def test_a_camera_may_change_its_size_while_it_runs() -> None:
    with Rig() as rig:
        rig.hardware.show(1, (48, 64))
        assert rig.take().data.shape == (48, 64, 3)
        rig.hardware.show(1, (30, 40))
        assert rig.take().data.shape == (30, 40, 3)


@pytest.mark.parametrize(("rotate", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_a_camera_may_be_mounted_any_way_up(rotate: int, corner: tuple[int, int]) -> None:
    with Rig(rotate=rotate) as rig:
        image = np.zeros((30, 40, 3), dtype=np.uint8)
        image[0, 0] = 255
        rig.hardware.give(image)
        seen = rig.take().data
        assert seen.shape[:2] == ((30, 40) if rotate % 180 == 0 else (40, 30))
        assert seen[corner].tolist() == [255, 255, 255] and seen.sum() == 3 * 255


def test_a_slow_slot_gets_the_latest_frame_and_the_others_are_counted() -> None:
    with Rig() as rig:
        rig.hardware.show(0)
        assert rig.take().number == 0
        for value in range(4):  # some are replaced in the slot's mailbox, some before they come so far
            rig.hardware.show(value)
        wait(lambda: rig.mailbox.dropped == 3, lambda: f"3 dropped, {rig.mailbox.dropped} are")
        assert rig.take().number == 4


def test_the_device_is_given_back_when_the_loop_stops() -> None:
    with Rig() as rig:
        rig.hardware.show(1)
        rig.take()
    rig.hardware.wait_released(1)


@pytest.mark.parametrize("broken", ["open", "read"])
def test_a_driver_that_raises_is_reported_as_any_failure(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("cv2.error: assertion failed")

    monkeypatch.setattr(f"tests.fakes.camera.FakeDevice.{broken}", explode)
    with Rig() as rig:
        rig.wait_for_error("RuntimeError: cv2.error: assertion failed")
        rig.hardware.wait_released(2)
