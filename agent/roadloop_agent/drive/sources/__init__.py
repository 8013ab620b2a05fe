"""Sources: what a slot sees. Each kind opens as an iterable of items; pacing and hand-over are in capture.py."""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path

from roadloop_agent.config import (
    FlowCsvSource,
    ImagesSource,
    MadeFlowSource,
    MadeSignsSource,
    MadeSpeedsSource,
    MadeTrafficSource,
    NpzSource,
    SourceTable,
    SpeedsCsvSource,
    VideoSource,
)
from roadloop_agent.drive.frames import Item, Reported, refuse
from roadloop_agent.hardware_config import CameraSource
from roadloop_agent.signals_config import MadeDriveSource, SignalsSource

__all__ = ["open_source", "opener"]


def opener(
    source: SourceTable, path: Path | None, clock: Callable[[], float], wanted: Collection[str] | None = None
) -> Callable[[Reported], Iterable[Item | None]]:
    """What opens a source from its first item, again and again. None among the items: nothing yet.

    The function gets whom to tell of what is passed over. A live source raises RetryLaterError while it has nothing.
    `wanted`: of a source of signals the VSS paths that its slots use; None: all.
    """
    if isinstance(source, CameraSource):
        from roadloop_agent.drive.sources.devices import open_camera

        return open_camera(source, clock).frames
    if isinstance(source, SignalsSource | MadeDriveSource):
        from roadloop_agent.drive.sources.signals import opening

        if isinstance(source, MadeDriveSource):
            return opening.open_made(source, wanted).frames
        if source.is_live:
            return opening.open_live(source, _named(path), wanted, clock).frames
        return opening.open_replay(source, _named(path), wanted).frames
    return partial(open_source, source, path)


def open_source(source: SourceTable, path: Path | None, passed_over: Reported = refuse) -> Iterable[Item]:
    """The items of a recorded or made source from its first one, in order; reading begins with the iteration.

    Images are uint8 RGB [height, width, 3], speeds a `SpeedStep`, counts a `FlowStep`. Raises DataError
    naming the file, here or while iterating; a damaged item goes to `passed_over`.
    """
    # Each kind imports its own decoder: a vehicle without a camera does not load OpenCV.
    if isinstance(source, SpeedsCsvSource | MadeSpeedsSource):
        from roadloop_agent.drive.sources import speeds

        if isinstance(source, MadeSpeedsSource):
            return speeds.made(source.days, source.seed)
        return speeds.SpeedsCsv(_named(path), source.first_row, source.last_row, source.select)
    if isinstance(source, FlowCsvSource | MadeFlowSource):
        from roadloop_agent.drive.sources import flow

        if isinstance(source, MadeFlowSource):
            return flow.made(source.days, source.seed)
        return flow.FlowCsv(_named(path), source.first_row, source.last_row, source.select)
    return _open_images(source, path, passed_over)


def _open_images(source: SourceTable, path: Path | None, passed_over: Reported) -> Iterable[Item]:
    from roadloop_agent.drive.sources import images

    if isinstance(source, NpzSource):
        return images.NpzImages(
            _named(path), source.first_row, source.last_row, source.tracks, source.select, passed_over=passed_over
        )
    if isinstance(source, VideoSource):
        return images.Video(_named(path), passed_over)
    if isinstance(source, ImagesSource):
        return images.Images(_named(path), passed_over)
    assert isinstance(source, MadeSignsSource | MadeTrafficSource)
    made = images.made_signs if isinstance(source, MadeSignsSource) else images.made_traffic
    return made(source.count, source.seed)


def _named(path: Path | None) -> Path:
    assert path is not None, "this kind of source has a path"
    return path
