"""Sketches of a stretch of time by cohort: vehicles of one hardware that run one release, all of them or of one tag.
Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from roadloop_models.contract.messages import SignalSketch, Sketch
from roadloop_models.errors import MessageError
from roadloop_models.sketches.reference import SignalReference
from roadloop_models.sketches.sketch import ValueSketch

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, order=True)
class Cohort:
    """Who is compared with a release's reference."""

    task: str
    slot: str
    release: int
    hardware: str
    tag: str = ""
    """Empty: whatever their tags."""

    @property
    def name(self) -> str:
        """For people."""
        return f"release {self.release}, {self.hardware}" + (f", {self.tag}" if self.tag else "")


@dataclass(frozen=True)
class Member:
    """What is known of a vehicle."""

    hardware: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Told:
    """One sketch, and the look that it falls in: whole periods since the epoch."""

    vehicle: str
    look: int
    sketch: Sketch


@dataclass(frozen=True)
class Part:
    """What one vehicle said about one signal in the time up to a look."""

    vehicle: str
    look: int
    signal: SignalSketch


@dataclass
class Watched:
    """One signal of one cohort: everything that was said about it."""

    cohort: Cohort
    signal: str
    parts: list[Part] = field(default_factory=list)

    def vehicles(self) -> list[str]:
        """Who said something."""
        return sorted({part.vehicle for part in self.parts})


def gather(told: Iterable[Told], members: Mapping[str, Member]) -> dict[tuple[Cohort, str], Watched]:
    """By cohort and signal. A vehicle is in the cohort of its hardware, and in one for each of its tags."""
    gathered: dict[tuple[Cohort, str], Watched] = {}
    for one in told:
        member = members.get(one.vehicle)
        if member is None:
            continue
        ref = one.sketch.ref
        for tag in ("", *member.tags):
            cohort = Cohort(ref.task, one.sketch.slot, ref.release, member.hardware, tag)
            for signal in one.sketch.signals:
                watched = gathered.setdefault((cohort, signal.name), Watched(cohort, signal.name))
                watched.parts.append(Part(one.vehicle, one.look, signal))
    return gathered


@dataclass(frozen=True)
class Merged:
    """The counts of one signal [vehicles, looks, bins], and all of it as one sketch."""

    vehicles: tuple[str, ...]
    looks: tuple[int, ...]
    counts: IntArray
    whole: ValueSketch


def merge(watched: Watched, reference: SignalReference, first_look: int, last_look: int) -> Merged | None:
    """What was said from one look to another, both included; None where nothing was that fits the reference."""
    looks = range(first_look, last_look + 1)
    bins = len(reference.counts)
    parts = [part for part in watched.parts if part.look in looks and len(part.signal.counts) == bins]
    if not parts:
        return None
    vehicles = sorted({part.vehicle for part in parts})
    counts = np.zeros((len(vehicles), len(looks), bins), dtype=np.int64)
    whole = ValueSketch(watched.signal, reference.edges)
    for part in parts:
        try:
            whole.merge(part.signal)
        except MessageError:  # ingest refuses these; what it took before it knew better is left out
            continue
        counts[vehicles.index(part.vehicle), part.look - first_look] += np.asarray(part.signal.counts, dtype=np.int64)
    return Merged(tuple(vehicles), tuple(looks), counts, whole)
