"""Video files that are whole, truncated, bit-flipped and overwritten."""

import threading
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from roadloop_agent.config import VideoSource
from roadloop_agent.drive.capture import Capture, Subscriber
from roadloop_agent.drive.frames import Item, Mailbox
from roadloop_agent.drive.sources import open_source
from roadloop_agent.drive.sources.images import Video
from roadloop_models.errors import DataError, RoadloopError

FRAMES = 60
WAIT_S = 10.0


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole and damaged copies of a made clip: Motion JPEG and MPEG-4."""
    folder = tmp_path_factory.mktemp("clips")
    random = np.random.default_rng(5)
    for name, codec in (("jpeg.avi", "MJPG"), ("mpeg4.mp4", "mp4v")):
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*codec), 25.0, (160, 120))
        background = random.integers(0, 255, (120, 160, 3), dtype=np.uint8)
        for index in range(FRAMES):
            image = background.copy()
            image[40:60, index : index + 20] = (0, 0, 255)
            writer.write(image)
        writer.release()
        whole = (folder / name).read_bytes()
        (folder / f"truncated-{name}").write_bytes(whole[: len(whole) // 2])
        flipped = bytearray(whole)
        for at in random.integers(len(whole) // 10, len(whole) * 9 // 10, 100).tolist():
            flipped[at] ^= 1 << int(random.integers(8))
        (folder / f"flipped-{name}").write_bytes(flipped)
        start, size = len(whole) // 2, len(whole) // 10
        (folder / f"overwritten-{name}").write_bytes(whole[:start] + bytes(size) + whole[start + size :])
    (folder / "rubbish.mp4").write_bytes(random.bytes(20_000))
    return folder


def read(path: Path) -> tuple[list[Item], list[RoadloopError]]:
    said: list[RoadloopError] = []
    return list(Video(path, said.append)), said


@pytest.mark.parametrize("name", ["jpeg.avi", "mpeg4.mp4"])
def test_a_whole_video_has_all_its_frames_and_their_times(clips: Path, name: str) -> None:
    items, said = read(clips / name)
    assert [item.number for item in items] == list(range(FRAMES)) and not said
    assert [item.t_source_s for item in items] == pytest.approx([number / 25 for number in range(FRAMES)])
    assert items[0].data.shape == (120, 160, 3)
    assert items[0].data[50, 10, 0] > items[0].data[50, 10, 2] + 100  # red is first


@pytest.mark.parametrize("name", ["flipped-jpeg.avi", "flipped-mpeg4.mp4"])
def test_flipped_bits_spoil_pictures_and_not_the_video(clips: Path, name: str) -> None:
    items, _ = read(clips / name)
    assert len(items) > FRAMES // 2
    assert all(item.data.shape == (120, 160, 3) for item in items)


@pytest.mark.parametrize("name", ["truncated-jpeg.avi", "overwritten-jpeg.avi", "overwritten-mpeg4.mp4"])
def test_frames_that_are_missing_are_told_after_all_that_are_there(clips: Path, name: str) -> None:
    items, said = read(clips / name)
    assert FRAMES // 3 < len(items) < FRAMES
    assert [str(error) for error in said] == [
        f"{clips / name}: {len(items)} of {FRAMES} frames can be decoded: it is truncated or damaged"
    ]
    with pytest.raises(DataError, match="truncated or damaged"):
        list(open_source(VideoSource(path=""), clips / name))


@pytest.mark.parametrize("name", ["truncated-mpeg4.mp4", "rubbish.mp4", "nowhere.mp4"])
def test_what_cannot_be_opened_is_named(clips: Path, name: str) -> None:
    with pytest.raises(DataError, match=name):
        Video(clips / name)


def captured(path: Path, mailbox: Mailbox, *, loop: bool = True) -> Capture:
    return Capture(
        name=path.name,
        open_items=partial(open_source, VideoSource(path=""), path),
        period_s=0.0001,
        pace="as-consumed",
        loop=loop,
        subscribers=[Subscriber(mailbox, 0.0001)],
        clock=time.monotonic,
        wall_ms=lambda: 0,
        reopen_s=0.01,
        reopen_max_s=0.02,
    )


def test_a_damaged_video_is_reported_while_it_and_all_others_go_on(clips: Path, tmp_path: Path) -> None:
    swapped = tmp_path / "clip.mp4"
    swapped.write_bytes((clips / "truncated-mpeg4.mp4").read_bytes())
    boxes = [Mailbox(), Mailbox(), Mailbox()]
    paths = [clips / "truncated-jpeg.avi", clips / "jpeg.avi", swapped]
    captures = [captured(path, box) for path, box in zip(paths, boxes, strict=True)]
    stop = threading.Event()
    threads = [threading.Thread(target=capture.run, args=(stop, lambda: None)) for capture in captures]
    for thread in threads:
        thread.start()
    try:
        errors: list[str] = []
        counts = [0, 0]
        until_s = time.monotonic() + WAIT_S
        while (min(counts) < 2 * FRAMES or not errors) and time.monotonic() < until_s:
            for index in (0, 1):
                counts[index] += boxes[index].take(0.01) is not None
            if (error := captures[0].collect_error()) is not None:
                errors.append(str(error))
        assert min(counts) >= 2 * FRAMES  # both loop, the damaged one too
        assert "frames can be decoded: it is truncated or damaged" in errors[0]
        assert captures[1].collect_error() is None
        assert "clip.mp4: not a video that OpenCV reads" in str(captures[2].collect_error())
        swapped.write_bytes((clips / "mpeg4.mp4").read_bytes())
        assert boxes[2].take(WAIT_S) is not None  # and what is mended comes back
        assert captures[2].collect_error() is None
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)


def test_a_source_that_ends_leaves_the_thread_alive(clips: Path) -> None:
    box, beats, stop = Mailbox(), [0], threading.Event()
    capture = captured(clips / "jpeg.avi", box, loop=False)

    def beat() -> None:
        beats[0] += 1

    thread = threading.Thread(target=partial(capture.run, stop, beat))
    thread.start()
    try:
        frames = 0
        while not box.idle:
            frames += box.take(0.01) is not None
        assert frames == FRAMES
        seen = beats[0]
        until_s = time.monotonic() + WAIT_S
        while beats[0] < seen + 2 and time.monotonic() < until_s:
            time.sleep(0.01)
        assert beats[0] >= seen + 2 and capture.collect_error() is None
    finally:
        stop.set()
        thread.join(WAIT_S)
