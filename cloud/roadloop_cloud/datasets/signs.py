"""traffic-sign: from captured images and what was said of them to rows of training.

A track is one physical sign seen in consecutive frames: its rows are nearly the same picture and must not lie on both
sides of a split. The cloud does not know tracks; where the labels do not name them, all images of one class from one
vehicle (or drive, where the split is by drive or time) count as one, which is coarser and therefore safe.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadloop_cloud.captures import Captured, DamagedError, Decision, decode_image, read_content
from roadloop_cloud.datasets.origins import RowOrigin
from roadloop_cloud.datasets.quality import FEWEST_TRACKS, Finding, finding, found, grouped, mixed
from roadloop_cloud.datasets.snapshot import TEST_FOLDER, Content
from roadloop_cloud.datasets.splits import Placed, Shares, SplitBy, by_name, by_time
from roadloop_cloud.labels.words import ClassValue, Verdict
from roadloop_models.errors import DataError
from roadloop_models.preprocess import ImageArray, ImageStandardize
from roadloop_models.tasks.row_slices import write_slices
from roadloop_models.tasks.sign_classes import SIGN_LABELS
from roadloop_models.tasks.sign_data import FOLDER, TEST_FILE, TRAIN_FILE

BLANK_BELOW = 1.0
"""Standard deviation of grey levels of 256: the faintest of gtsrb32's 10,455 training images has 2.4."""
SURE_ABOVE = 0.99


@dataclass(frozen=True)
class Known:
    """What is known about captured images, beside their content."""

    verdicts: Mapping[str, Verdict]
    decisions: Mapping[str, Decision]
    quarantined: Collection[str]
    is_held_out: Callable[[ImageArray], bool]
    """Asked of each picture (uint8 RGB [32, 32, 3])."""
    hardware: Mapping[str, str]
    """Vehicle -> the hardware that it says it is."""


@dataclass(frozen=True)
class _Row:
    item: Captured
    content: bytes
    picture: str
    """Hash of the decoded 32x32 picture: two files may show the very same."""
    name: str
    track: str
    weather: str
    """Empty where nobody says."""
    verdict: Verdict

    @property
    def key(self) -> str:
        return self.item.sha256


def assemble(captured: Sequence[Captured], known: Known, split_by: SplitBy, shares: Shares, target: Path) -> Content:
    """Write the labelled images in the layout of gtsrb32 below `target`, each picture once, in an order that is always
    the same; those of the split test apart, as a data folder of their own.

    Raises DataError where none remains to train on.
    """
    excluded: Counter[str] = Counter()
    chosen, blank = _choose(captured, known, split_by, excluded)
    label = {row.key: row.name for row in chosen}
    contradicting = set(mixed(((row.picture, row.key) for row in chosen), label.__getitem__))
    rows, seen = [], set()
    for row in chosen:
        if row.key in contradicting:
            excluded["same-picture-other-label"] += 1
        elif row.picture in seen:
            excluded["same-picture"] += 1
        else:
            seen.add(row.picture)
            rows.append(row)
    if not rows:
        why = dict(excluded) or "there are none"
        raise DataError(f"of {len(captured)} captured images none can be trained on: {why}")
    placed = list(zip(rows, _place(rows, split_by, shares), strict=True))
    placed.sort(key=lambda pair: pair[1].split == "test")  # stable: otherwise as they came
    kept, tested = ([row for row, place in placed if (place.split == "test") == test] for test in (False, True))
    if not kept:
        raise DataError(f"all {len(rows)} images are in one group, which is tested on; split by track, or without test")
    _write(target / FOLDER / TRAIN_FILE, kept)
    if tested:
        path = target / TEST_FOLDER / FOLDER / TEST_FILE
        _write(path, tested)
        write_slices(path, _slices(tested, known.hardware))
    return Content(
        rows=len(kept),
        sources=dict(sorted(Counter(row.item.vehicle for row in kept).items())),
        excluded=dict(sorted(excluded.items())),
        split_by=split_by,
        origins=[_origin(row, place) for row, place in placed],
        findings=found(
            finding("blank-picture", blank, left_out=True, detail="hardly any contrast"),
            finding("same-picture-other-label", contradicting, left_out=True),
            *_findings(rows, known),
        ),
    )


def _choose(
    captured: Sequence[Captured], known: Known, split_by: SplitBy, excluded: Counter[str]
) -> tuple[list[_Row], list[str]]:
    """The rows that have a label and a sound picture, and the items whose picture is blank."""
    rows: list[_Row] = []
    blank: list[str] = []
    seen: set[str] = set()
    for item in sorted(captured, key=lambda item: (item.vehicle, item.sha256)):
        verdict = known.verdicts.get(item.sha256)
        if item.vehicle in known.quarantined:
            excluded["quarantined"] += 1
        elif item.sha256 in seen:
            excluded["captured-twice"] += 1
        elif verdict is None or not isinstance(verdict.word.value, ClassValue):
            excluded["no-label"] += 1
        else:
            seen.add(item.sha256)
            try:
                content = read_content(item)
                image = ImageStandardize().resize(decode_image(item, content))
            except DamagedError as error:
                excluded[error.reason] += 1
                continue
            if known.is_held_out(image):
                excluded["held-out"] += 1
            elif float(image.std()) < BLANK_BELOW:
                excluded["blank-picture"] += 1
                blank.append(item.sha256)
            else:
                value = verdict.word.value
                near = item.drive if split_by in {"drive", "time"} else item.vehicle
                track = value.track or f"{near}/{value.name}"
                picture = hashlib.sha256(image.tobytes()).hexdigest()
                rows.append(_Row(item, content, picture, value.name, track, value.weather or "", verdict))
    return rows, blank


def _place(rows: Sequence[_Row], split_by: SplitBy, shares: Shares) -> list[Placed]:
    def unit(row: _Row) -> str:
        if split_by == "vehicle":
            return f"vehicle {row.item.vehicle}"
        return f"drive {row.item.drive}" if split_by == "drive" else f"track {row.track}"

    bonds = [(unit(row), f"track {row.track}", f"picture {row.picture}") for row in rows]
    if split_by == "time":
        return by_time(bonds, [float(row.item.t_ms) for row in rows], shares)
    return by_name(bonds, [row.name for row in rows], shares)


def _findings(rows: Sequence[_Row], known: Known) -> list[Finding | None]:
    label = {row.key: row.name for row in rows}
    tracks = grouped((row.name, row.track) for row in rows)
    thin = [name for name, seen in tracks.items() if len(set(seen)) < FEWEST_TRACKS]
    surprised = [
        row.key
        for row in rows
        if (decision := known.decisions.get(row.key)) is not None
        and decision.confidence > SURE_ABOVE
        and 0 <= decision.class_id < len(SIGN_LABELS)
        and SIGN_LABELS[decision.class_id] != row.name
    ]
    return [
        finding("people-disagree", [row.key for row in rows if row.verdict.against], detail="the last word counts"),
        finding("track-of-several-classes", mixed(((row.track, row.key) for row in rows), label.__getitem__)),
        finding("vehicle-was-sure-otherwise", surprised, detail=f"above {SURE_ABOVE:g}"),
        finding("class-of-one-track", thin, detail="cannot be validated"),
    ]


def _origin(row: _Row, place: Placed) -> RowOrigin:
    word = row.verdict.word
    return RowOrigin(
        row.key, place.split, place.group, row.item.vehicle, row.item.drive, row.name, word.origin, word.by
    )


def _slices(rows: Sequence[_Row], hardware: Mapping[str, str]) -> dict[str, list[str]]:
    """What is known of test rows beside the pictures; of the weather only where somebody looked."""
    slices = {"hardware": [hardware.get(row.item.vehicle, "") for row in rows]}
    weather = [row.weather for row in rows]
    return slices | ({"weather": weather} if any(weather) else {})


def _write(path: Path, rows: Sequence[_Row]) -> None:
    numbers = {track: number for number, track in enumerate(sorted({row.track for row in rows}))}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        allow_pickle=False,
        png=np.frombuffer(b"".join(row.content for row in rows), dtype=np.uint8),
        offset=np.cumsum([0, *(len(row.content) for row in rows)], dtype=np.int64),
        label=np.asarray([SIGN_LABELS.index(row.name) for row in rows], dtype=np.uint8),
        track=np.asarray([numbers[row.track] for row in rows], dtype=np.int64),
    )
