"""Traces: what the campaigns of a vehicle would see on a drive, and how large what they would send. JSON lines.

A line with `trace` begins a vehicle; the lines after it are the moments of its slots in order. Several traces one after
the other are a trace of several vehicles.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from roadloop_models.bundle.manifest import Name
from roadloop_models.errors import DataError
from roadloop_models.typed import from_json

_MAX_LINE_BYTES = 64 * 1024


class TraceHead(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a vehicle."""

    trace: Literal[1] = 1
    vehicle: Annotated[str, msgspec.Meta(max_length=40)]
    slots: dict[Name, Name]
    """Slot -> task."""


class TraceMoment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One moment of a slot."""

    slot: Name
    t_s: float
    """Source time."""
    t_ms: int
    """Wall time: a day of a budget is counted in it."""
    values: dict[str, float] | None = None
    """What conditions see; unknown values are left out. None: nothing was decided."""
    signals: dict[str, float] | None = None
    """Of a task of signals: the frame, coarsened as it would leave the vehicle."""
    size_bytes: int | None = None
    """Of a task of images: the file that would be sent."""
    sha256: str | None = None
    """Of that file: the same is not sent again."""


def known(values: Mapping[str, float]) -> dict[str, float]:
    """Without what is unknown."""
    return {name: value for name, value in values.items() if not math.isnan(value)}


def trace_line(line: TraceHead | TraceMoment) -> bytes:
    """With its end."""
    return msgspec.json.encode(line) + b"\n"


def read_trace(path: Path) -> Iterator[TraceHead | TraceMoment]:
    """The lines of a trace. Raises DataError naming file and line."""
    try:
        with path.open("rb") as file:
            lines = iter(lambda: file.readline(_MAX_LINE_BYTES + 1), b"")
            for number, raw in enumerate(lines, start=1):
                if len(raw) > _MAX_LINE_BYTES:
                    raise DataError(f"{path}: line {number}: more than {_MAX_LINE_BYTES} bytes")
                try:
                    is_head = b'"trace"' in raw[:200]
                    line = from_json(raw, TraceHead) if is_head else from_json(raw, TraceMoment)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise DataError(f"{path}: line {number}: {error}; 'roadloop-agent trace' writes traces") from error
                if number == 1 and not is_head:
                    raise DataError(f"{path}: line 1: names no vehicle; 'roadloop-agent trace' writes traces")
                yield line
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
