"""What can be said about an item, and what counts where several say something. Pure."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

from roadloop_models.bundle.manifest import Sha256

Origin = Literal["person", "outcome", "gnss", "teacher"]
"""Where a label comes from. The order is that of trust: an earlier origin counts against a later one."""
ORIGINS: tuple[Origin, ...] = get_args(Origin)
TEACHER_ABOVE = 0.9
"""A teacher's label is trained on where it is surer than this."""
WEATHERS = ("clear", "partly cloudy", "overcast", "rainy", "snowy", "foggy")
"""As BDD100K calls them."""


class ClassValue(msgspec.Struct, frozen=True, tag="class"):
    """The class of a whole item, and perhaps the physical thing that several items show, and in which weather."""

    name: str
    track: str | None = None
    weather: str | None = None


class Box(msgspec.Struct, frozen=True):
    """One object: its class, and its box in pixels of the item's own size."""

    name: str
    left: float
    top: float
    width: float
    height: float


class BoxesValue(msgspec.Struct, frozen=True, tag="boxes"):
    """Every object of an item."""

    boxes: tuple[Box, ...]


class MeasuredValue(msgspec.Struct, frozen=True, tag="measured"):
    """Quantities that were measured later, by name with unit."""

    values: dict[str, float]


Value = ClassValue | BoxesValue | MeasuredValue


@dataclass(frozen=True)
class Word:
    """One label as it is said."""

    task: str
    item: Sha256
    value: Value
    origin: Origin
    by: str
    confidence: float | None = None
    disagreement: float | None = None
    about: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What counts for one item, and what others of the same trust said instead."""

    word: Word
    against: tuple[Word, ...] = ()


def sample_item(stream: str, vehicle: str, boot: int, seq: int) -> tuple[Sha256, str]:
    """(item, about) of a sample, which has no content of its own to be called by."""
    about = f"{stream}/{vehicle}/{boot}/{seq}"
    return hashlib.sha256(about.encode()).hexdigest(), about


def judge(words: Iterable[Word], teacher_above: float = TEACHER_ABOVE) -> dict[Sha256, Verdict]:
    """What counts for each item, from words in the order in which they were said.

    Of each speaker the last word counts; among origins the most trusted; within one origin the last speaker.
    """
    spoken: dict[Sha256, dict[tuple[Origin, str], Word]] = {}
    for word in words:
        by_speaker = spoken.setdefault(word.item, {})
        by_speaker.pop((word.origin, word.by), None)  # so that the order is that of the last words
        by_speaker[word.origin, word.by] = word
    verdicts = {}
    for item, by_speaker in spoken.items():
        verdict = _verdict([word for word in by_speaker.values() if is_trusted(word, teacher_above)])
        if verdict is not None:
            verdicts[item] = verdict
    return verdicts


def is_trusted(word: Word, teacher_above: float = TEACHER_ABOVE) -> bool:
    """Whether a word may be trained on: a teacher's only where it is sure."""
    return word.origin != "teacher" or (word.confidence or 0.0) > teacher_above


def _verdict(words: Sequence[Word]) -> Verdict | None:
    if not words:
        return None
    best = min(ORIGINS.index(word.origin) for word in words)
    among = [word for word in words if ORIGINS.index(word.origin) == best]
    return Verdict(among[-1], tuple(word for word in among[:-1] if word.value != among[-1].value))
