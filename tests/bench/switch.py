"""Frames that a switch to another release costs the real drive process.

A machine that does other things too loses a frame now and then, whether or not a release changes. So the frames are
counted that are missing where a switch was under way; those of the whole time, and of as long a time without
switches, stand beside them.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypeAlias

import msgspec

from roadloop_agent.ipc import FromDrive, Hello, Samples
from roadloop_models.bundle import MANIFEST_NAME, Bundle
from roadloop_models.bundle.manifest import encode_manifest
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.contract.streams import DETECTION, SIGN_DECISION, Stream
from roadloop_models.packaged import packaged_bundles
from tests.bench.driving_profiles import DETECTOR_PROFILE, SIGN_PROFILE, SLOT
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.latency import imported_detector
from tests.fakes.driving import Driving

SWITCHES = 20
PAUSE_S = 0.7
WARM_S = 3.0
PATIENCE_S = 30.0
AROUND_MS = 50
"""So long after drive has answered, what is missing still counts as the switch's."""
Span: TypeAlias = tuple[int, int]
"""First and last millisecond, by the wall clock."""
_figure = partial(Figure, command="scripts/bench delivery")


@dataclass
class Tally:
    """What drive has decided about: the numbers of the frames, and the wall time at which each came."""

    stream: str
    items: list[int] = field(default_factory=list)
    times_ms: list[int] = field(default_factory=list)
    started: bool = False

    def __call__(self, message: FromDrive) -> None:
        """Note what a message says."""
        if isinstance(message, Samples) and message.stream == self.stream:
            self.items += [int(row[0]) for row in message.rows]
            self.times_ms += message.t_ms
        elif isinstance(message, Hello):
            self.started = True

    def missing(self, spans_ms: Sequence[Span]) -> int:
        """How many frames were not decided about whose gap lies in, or reaches into, one of these spans."""
        gaps = zip(missing_between(self.items), pairwise(self.times_ms), strict=True)
        return sum(
            missing
            for missing, (left_ms, right_ms) in gaps
            if any(left_ms <= end_ms and right_ms >= begin_ms for begin_ms, end_ms in spans_ms)
        )

    def longest_gap_ms(self, span_ms: Span) -> int:
        """The longest time between two decisions in a span."""
        times = [time_ms for time_ms in self.times_ms if span_ms[0] <= time_ms <= span_ms[1]]
        return max(later - before for before, later in pairwise(times))


def missing_between(items: Sequence[int]) -> list[int]:
    """How many frames are missing between each two that were decided about; they are numbered from 0, again and again.

    A recording that begins again does so at once, ahead of its pace: nobody wants one of its first two frames.
    """
    length = max(items, default=0) + 1
    missing = [(after - before - 1) % length for before, after in pairwise(items)]
    for index, (before, after) in enumerate(pairwise(items)):
        if after <= before:
            passed_over = next((at for at, gap in enumerate(missing[index : index + 2], index) if gap), None)
            if passed_over is not None:
                missing[passed_over] -= 1
    return missing


def figures(data: Path | None) -> list[Result]:
    """Frames missing around the moments at which releases change both ways."""
    results = _figures("", packaged_sign, SIGN_PROFILE, SIGN_DECISION)
    if data is None:
        return [*results, Skipped("switch_dropped_frames_detector", "ROADLOOP_DATA names no data")]
    clip = (data / "video" / "solidWhiteRight.mp4").resolve()
    detector = partial(imported_detector, data)
    return [*results, *_figures("_detector", detector, DETECTOR_PROFILE.format(clip=clip), DETECTION)]


def packaged_sign(_folder: Path) -> Bundle:
    """The sign classifier that ships."""
    return Bundle.open(packaged_bundles()["traffic-sign"])


def _figures(suffix: str, make: Callable[[Path], Bundle], profile: str, stream: Stream) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        bundle = make(directory)
        driving = Driving(directory / "van", {SLOT: bundle}, profile)
        first = driving.store.slot(SLOT).confirmed
        second = driving.install(SLOT, _another_version(bundle, directory / "next"), 2)
        tally = Tally(stream.name)
        driving.hear = tally
        with driving:
            driving.listen(PATIENCE_S, lambda: tally.started and len(tally.items) > 0)
            driving.listen(WARM_S)
            begin_ms = _now_ms()
            switches = [_switch(driving, (second, first)[number % 2]) for number in range(SWITCHES)]
            between_ms = _now_ms()
            driving.listen(SWITCHES * PAUSE_S)
            end_ms = _now_ms()
            driving.listen(PATIENCE_S, lambda: tally.times_ms[-1] >= end_ms)
        assert tally.times_ms[-1] >= end_ms, "the last samples did not come"
    return [
        _figure(f"switch_dropped_frames{suffix}", tally.missing(switches), "frames", bar=0),
        _figure(f"switch_ms{suffix}", median(end - begin for begin, end in switches) - AROUND_MS, "ms"),
        _figure(f"dropped_frames_while_switching{suffix}", tally.missing([(begin_ms, between_ms)]), "frames"),
        _figure(f"dropped_frames_while_quiet{suffix}", tally.missing([(between_ms, end_ms)]), "frames"),
        _figure(f"switch_longest_gap_ms{suffix}", tally.longest_gap_ms((begin_ms, between_ms)), "ms"),
        _figure(f"quiet_longest_gap_ms{suffix}", tally.longest_gap_ms((between_ms, end_ms)), "ms"),
    ]


def _switch(driving: Driving, release: ReleaseRef) -> Span:
    """From when drive was asked until a while after it had done it."""
    begin_ms = _now_ms()
    driving.switch(SLOT, release)
    end_ms = _now_ms() + AROUND_MS
    driving.listen(PAUSE_S)
    return begin_ms, end_ms


def _now_ms() -> int:
    """By the clock that samples are stamped with."""
    return time.time_ns() // 1_000_000


def _another_version(bundle: Bundle, directory: Path) -> Bundle:
    """The same files under the next version's name."""
    shutil.copytree(bundle.directory, directory)
    manifest = msgspec.structs.replace(bundle.manifest, version=f"{bundle.manifest.version}-next")
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return Bundle.open(directory)
