"""What a rollout would do, before anything happens: a pure function of what is asked for and what is known.

Bytes are those of files: the variant that a vehicle runs, without what it has already, a signed patch instead of the
whole file where there is one. Metadata (about 20 kB at a first check, less later) and the frames of the link come on
top. Times are bounds: at least what sending, health window and soak take, at most what time-outs allow.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from roadloop_cloud.rollout.members import slots_of
from roadloop_cloud.rollout.spec import RolloutSpec
from roadloop_cloud.rollout.target import Candidate, Requirement, Selection
from roadloop_cloud.rollout.waves import ramp_sizes
from roadloop_models.bundle import MANIFEST_NAME
from roadloop_models.bundle.delta import patch_name
from roadloop_models.bundle.manifest import FileEntry, Manifest

KeyT = TypeVar("KeyT", str, int)

LONG_OFFLINE_S = 3600.0
"""A vehicle that was not heard for so long is named as one that will come late."""


@dataclass(frozen=True)
class VehicleBytes:
    """What one vehicle will receive, and what it would without patches."""

    wanted: int
    whole: int


@dataclass(frozen=True)
class WavePreview:
    """One wave, as it goes where every vehicle succeeds."""

    vehicles: int
    online: int
    cohorts: dict[str, int]
    bytes: int
    at_least_s: float
    at_most_s: float
    fleet_share: float
    """Of all vehicles that have the task: those that take it in this wave, before its gate can stop it."""


@dataclass(frozen=True)
class Preview:
    """All of it."""

    spec: RolloutSpec
    waves: tuple[WavePreview, ...]
    left_out: dict[str, tuple[str, ...]]
    """Reason -> vehicles."""
    collisions: dict[int, tuple[str, ...]]
    """Active rollout -> vehicles that it has: `create` would refuse."""
    offline: dict[str, float | None]
    """Vehicle -> since when it was not heard (seconds since the epoch); it takes part when it comes."""
    bytes: int
    whole_bytes: int
    """Without patches and without what vehicles have."""
    largest_bytes: int
    """Of one vehicle."""
    cost: float
    fleet: int

    @property
    def vehicles(self) -> int:
        """Those that take part."""
        return sum(wave.vehicles for wave in self.waves)

    @property
    def blast_radius(self) -> float:
        """The largest share of the fleet that takes it before a gate has looked: that of the largest wave."""
        return max((wave.fleet_share for wave in self.waves), default=0.0)

    @property
    def first_gate(self) -> float:
        """The share of the fleet that takes it before the first gate can stop it."""
        return self.waves[0].fleet_share if self.waves else 0.0

    @property
    def at_least_s(self) -> float:
        """How long it takes where all goes well."""
        return sum(wave.at_least_s for wave in self.waves)

    @property
    def at_most_s(self) -> float:
        """How long it may take where vehicles use all their time; people and maintenance windows come on top."""
        return sum(wave.at_most_s for wave in self.waves)


@dataclass(frozen=True)
class Known:
    """What the cloud knows beside the vehicles."""

    sizes: Mapping[str, int]
    """Name of a signed target -> bytes."""
    held: Mapping[tuple[str, int], Manifest]
    """Releases that vehicles run: (task, release) -> manifest."""
    fleet: int
    """Vehicles that have a slot of the first task."""
    bytes_per_s: int
    """How fast a vehicle is sent files where the policy does not say."""
    cost_per_gb: float
    now_s: float


def preview(
    spec: RolloutSpec,
    order: Sequence[Candidate],
    requirements: Sequence[Requirement],
    selection: Selection,
    known: Known,
) -> Preview:
    """Cut the order into waves, and count what each will cost."""
    sizes = spec.wave_sizes if spec.ramp is None else ramp_sizes(spec.ramp, len(order))
    amounts = {one.vehicle: vehicle_bytes(one, requirements, known) for one in order}
    waves, begin = [], 0
    for size in sizes:
        waves.append(_wave(spec, order[begin : begin + size], amounts, known))
        begin += size
    total = sum(amount.wanted for amount in amounts.values())
    return Preview(
        spec=spec,
        waves=tuple(waves),
        left_out=_grouped(selection.left_out),
        collisions=_grouped(selection.collisions),
        offline={one.vehicle: one.seen_s for one in order if _is_off(one, known.now_s)},
        bytes=total,
        whole_bytes=sum(amount.whole for amount in amounts.values()),
        largest_bytes=max((amount.wanted for amount in amounts.values()), default=0),
        cost=total / 1e9 * known.cost_per_gb,
        fleet=known.fleet,
    )


def vehicle_bytes(candidate: Candidate, requirements: Sequence[Requirement], known: Known) -> VehicleBytes:
    """What a vehicle receives. One that has never reported is counted with the largest variant, whole."""
    wanted = whole = 0
    for one in requirements:
        prefix = f"{one.ref.task}/{one.ref.release}"
        amount = known.sizes.get(f"{prefix}/{MANIFEST_NAME}", 0)
        wanted, whole = wanted + amount, whole + amount
        has = _held(candidate, one.ref.task, known)
        for entry in _entries(candidate, one):
            whole += entry.size_bytes
            if entry.sha256 not in has:
                patches = (known.sizes.get(f"{prefix}/{patch_name(entry.path, base)}") for base in has)
                wanted += min([entry.size_bytes, *(size for size in patches if size is not None)])
    return VehicleBytes(wanted, whole)


def _entries(candidate: Candidate, requirement: Requirement) -> set[FileEntry]:
    manifest, task = requirement.manifest, requirement.ref.task
    runs = {f"{slot.runtime}-{slot.precision}" for slot in slots_of(task, candidate.report)}
    by_variant = {variant.key: set(manifest.files_for(variant)) for variant in manifest.variants}
    if not runs:
        return max(by_variant.values(), key=lambda entries: sum(entry.size_bytes for entry in entries))
    return set().union(*(entries for key, entries in by_variant.items() if key in runs))


def _held(candidate: Candidate, task: str, known: Known) -> frozenset[str]:
    """The SHA-256 of all files that a vehicle has installed of a task, as far as its report says."""
    found: set[str] = set()
    for slot in slots_of(task, candidate.report):
        manifest = None if slot.running is None else known.held.get((task, slot.running.release))
        for variant in () if manifest is None else manifest.variants:
            if manifest is not None and variant.key == f"{slot.runtime}-{slot.precision}":
                found |= {entry.sha256 for entry in manifest.files_for(variant)}
    return frozenset(found)


def _wave(
    spec: RolloutSpec, members: Sequence[Candidate], amounts: Mapping[str, VehicleBytes], known: Known
) -> WavePreview:
    rate = spec.policy.fetch_bytes_per_s or known.bytes_per_s
    longest_s = max((amounts[one.vehicle].wanted for one in members), default=0) / rate
    return WavePreview(
        vehicles=len(members),
        online=sum(one.online for one in members),
        cohorts=dict(sorted(Counter(one.cohort(spec.tasks) for one in members).items())),
        bytes=sum(amounts[one.vehicle].wanted for one in members),
        at_least_s=longest_s + spec.policy.health_window_s + spec.soak_s,
        at_most_s=spec.timeout_s + spec.soak_s + (spec.shadow.max_s if spec.shadow is not None else 0.0),
        fleet_share=len(members) / known.fleet if known.fleet else 0.0,
    )


def _is_off(candidate: Candidate, now_s: float) -> bool:
    quiet = candidate.seen_s is None or now_s - candidate.seen_s > LONG_OFFLINE_S
    return not candidate.online and quiet


def _grouped(by_vehicle: Mapping[str, KeyT]) -> dict[KeyT, tuple[str, ...]]:
    found: dict[KeyT, list[str]] = {}
    for vehicle, key in sorted(by_vehicle.items()):
        found.setdefault(key, []).append(vehicle)
    return {key: tuple(vehicles) for key, vehicles in found.items()}
