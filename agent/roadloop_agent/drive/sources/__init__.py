"""Sources: what a slot sees. Each kind opens as an iterable of items; pacing and hand-over are in capture.py."""

from collections.abc import Iterable
from pathlib import Path

from roadloop_agent.config import (
    ImagesSource,
    MadeSignsSource,
    MadeSpeedsSource,
    NpzSource,
    SourceTable,
    SpeedsCsvSource,
    VideoSource,
)
from roadloop_agent.drive.frames import Item

__all__ = ["open_source"]


def open_source(source: SourceTable, path: Path | None) -> Iterable[Item]:
    """The items of a source from its first one, in order; reading begins with the iteration.

    Images are uint8 RGB [height, width, 3], speeds a `SpeedStep`. Raises DataError naming the file, here or while
    iterating.
    """
    # Each kind imports its own decoder: a vehicle without a camera does not load OpenCV.
    if isinstance(source, SpeedsCsvSource):
        from roadloop_agent.drive.sources import speeds

        return speeds.SpeedsCsv(_named(path), source.first_row, source.last_row, source.select)
    if isinstance(source, MadeSpeedsSource):
        from roadloop_agent.drive.sources import speeds

        return speeds.made(source.days, source.seed)
    from roadloop_agent.drive.sources import images

    if isinstance(source, NpzSource):
        return images.NpzImages(_named(path), source.first_row, source.last_row, source.tracks, source.select)
    if isinstance(source, VideoSource):
        return images.Video(_named(path))
    if isinstance(source, ImagesSource):
        return images.Images(_named(path))
    assert isinstance(source, MadeSignsSource)
    return images.made(source.count, source.seed)


def _named(path: Path | None) -> Path:
    assert path is not None, "this kind of source has a path"
    return path
