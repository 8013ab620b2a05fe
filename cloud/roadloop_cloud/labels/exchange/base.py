"""What the formats share: what a person is asked, what a person answers, and how files are read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from roadloop_cloud.labels.words import BoxesValue, ClassValue
from roadloop_models.errors import DataError

Kind = Literal["class", "boxes"]
"""How items of a task are labelled: one class an item, or boxes in it."""
MAX_FILE_BYTES = 256 * 1024 * 1024
IMAGES = "images"
TRACK = "track"
"""What the formats call the physical thing that several items show."""
WEATHER, NO_WEATHER = "weather", "unknown"
"""What the formats call the weather that an item shows, and what stands there where nobody has looked."""

_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Asked:
    """One image that a person shall look at; `image` is its file's name below `images/`."""

    item: str
    image: str
    width: int
    height: int
    suggestion: ClassValue | BoxesValue | None
    """What is believed so far."""
    suggested_by: str | None
    confidence: float | None
    disagreement: float | None
    vehicle: str
    decision: str | None
    """What the vehicle decided."""


@dataclass(frozen=True)
class Sheet:
    """All that is asked, the most doubtful first."""

    task: str
    kind: Kind
    classes: tuple[str, ...]
    asked: Sequence[Asked]


@dataclass(frozen=True)
class Heard:
    """One answer that was read from a file, and whose it is where the file says so."""

    item: str
    value: ClassValue | BoxesValue
    by: str | None
    where: str
    """Place in the file, for messages."""


class Format(Protocol):
    """One tool's files."""

    def write(self, folder: Path, sheet: Sheet) -> Path:
        """Write what the tool imports into `folder` (the images lie in `images/` already); returns the main file."""

    def read(self, path: Path, kind: Kind) -> list[Heard]:
        """What the tool exported. Raises DataError naming file, place and field."""


def image_name(place: int, item: str, suffix: str) -> str:
    """The name of an image: sorted by it, tools show the most doubtful first, and the item is known from it."""
    return f"{place:05}-{item}{suffix}"


def weather_of(text: str | None) -> str | None:
    """The weather that a file tells; nothing where nobody has looked."""
    told = (text or "").strip()
    return None if told in {"", NO_WEATHER} else told


def item_of(name: str, where: str) -> str:
    """The item that a file name or URL is about. Raises DataError."""
    found = _SHA256.findall(name.lower())
    if len(set(found)) != 1:
        raise DataError(f"{where}: {name!r} has no SHA-256 in it; keep the names that 'roadloop label export' gave")
    return str(found[0])


def read_bytes(path: Path) -> bytes:
    """The bytes of a file of bounded size. Raises DataError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: more than {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error}") from error
