"""Frames that a switch to another release costs: counted by the real drive process, with and without switches."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec

from roadloop_agent.ipc import FromDrive, Hello, Samples, SlotHealth
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
SETTLE_S = 1.5
"""Until the health messages of a stretch are here."""
_figure = partial(Figure, command="scripts/bench delivery")


@dataclass
class Tally:
    """What drive says of a slot: dropped frames since its start, and the times of its decisions."""

    stream: str
    dropped: int = 0
    decided_ms: list[int] = field(default_factory=list)
    started: bool = False

    def __call__(self, message: FromDrive) -> None:
        """Count what a message says."""
        if isinstance(message, SlotHealth):
            self.dropped = message.dropped + message.expired + message.shed
        elif isinstance(message, Samples) and message.stream == self.stream:
            self.decided_ms += message.t_ms
        elif isinstance(message, Hello):
            self.started = True


def figures(data: Path | None) -> list[Result]:
    """Frames dropped while releases change both ways, beyond those dropped in as long a time without."""
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
            driving.listen(30.0, lambda: tally.started and len(tally.decided_ms) > 0)
            driving.listen(WARM_S)
            switching = _stretch(tally, driving, lambda: _switch(driving, second, first))
            quiet = _stretch(tally, driving, lambda: driving.listen(switching.seconds))
    return [
        _figure(f"switch_dropped_frames{suffix}", max(0, switching.dropped - quiet.dropped), "frames", bar=0),
        _figure(f"dropped_frames_while_switching{suffix}", switching.dropped, "frames"),
        _figure(f"dropped_frames_while_quiet{suffix}", quiet.dropped, "frames"),
        _figure(f"switch_longest_gap_ms{suffix}", switching.gap_ms, "ms"),
        _figure(f"quiet_longest_gap_ms{suffix}", quiet.gap_ms, "ms"),
    ]


@dataclass(frozen=True)
class _Stretch:
    seconds: float
    dropped: int
    gap_ms: int
    """The longest time between two decisions."""


def _switch(driving: Driving, *releases: ReleaseRef) -> None:
    for number in range(SWITCHES):
        driving.switch(SLOT, releases[number % len(releases)])
        driving.listen(PAUSE_S)


def _stretch(tally: Tally, driving: Driving, work: Callable[[], None]) -> _Stretch:
    """What drive says of the time that `work` takes."""
    driving.listen(SETTLE_S)
    dropped, decided, begin_s = tally.dropped, len(tally.decided_ms), time.monotonic()
    work()
    seconds = time.monotonic() - begin_s
    driving.listen(SETTLE_S)
    times = sorted(tally.decided_ms[decided:])
    gap_ms = max(later - before for before, later in pairwise(times))
    return _Stretch(seconds, tally.dropped - dropped, gap_ms)


def _another_version(bundle: Bundle, directory: Path) -> Bundle:
    """The same files under the next version's name."""
    shutil.copytree(bundle.directory, directory)
    manifest = msgspec.structs.replace(bundle.manifest, version=f"{bundle.manifest.version}-next")
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return Bundle.open(directory)
