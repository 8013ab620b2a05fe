"""Rollouts as people and programs use them; `tick` applies the plan, and may be repeated at any time by anybody."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.fleet import desired
from roadloop_cloud.registry.releases import Releases, release_ref
from roadloop_cloud.rollout import plan as planning
from roadloop_cloud.rollout import rows
from roadloop_cloud.rollout.plan import ACTIVE, Plan, Rollout, RolloutSpec
from roadloop_cloud.rollout.waves import wave_order, wave_sizes
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.fleet_tables import RolloutClaim, RolloutMember, RolloutRow
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import ReleaseRef, Reported
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError


@dataclass(frozen=True)
class Target:
    """Which vehicles: these ids, those with any of these tags, or all. Of all and of tags only those with the task."""

    vehicles: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    everyone: bool = False


@dataclass(frozen=True)
class Settings:
    """How a rollout goes about it; what is None is taken from the workspace's [rollout]."""

    waves: tuple[str, ...] | None = None
    success_threshold: float | None = None
    error_threshold: float | None = None
    min_executed: int | None = None
    soak_s: float | None = None
    timeout_s: float | None = None
    health_window_s: float | None = None
    fetch_bytes_per_s: int | None = None


@dataclass(frozen=True)
class MemberView:
    """One vehicle of a rollout, beside its own last word."""

    vehicle: str
    wave: int
    state: str
    error: str | None
    report: Reported | None


@dataclass(frozen=True)
class RolloutView:
    """A rollout as it is shown."""

    id: int
    spec: RolloutSpec
    state: str
    reason: str
    wave: int
    members: tuple[MemberView, ...]


class Rollouts:
    """Application service on the rollout tables."""

    def __init__(
        self, database: Database, releases: Releases, defaults: RolloutConfig, clock: Callable[[], float]
    ) -> None:
        """`clock` gives seconds since the epoch: rollouts outlive processes, so their times are wall times."""
        self._database = database
        self._releases = releases
        self._defaults = defaults
        self._clock = clock

    def create(self, task: str, release: int, target: Target, settings: Settings | None = None) -> int:
        """Begin to take a release to vehicles; the first wave is offered by the next tick. Returns the rollout's id.

        Raises NotFoundError (no such release or vehicle), ConfigError (waves, thresholds), BadInputError (nobody is
        targeted) or ConflictError where a vehicle's task is in an active rollout already.
        """
        ref = release_ref(self._releases.get(task, release))
        try:
            with self._database.transaction() as session:
                vehicles = _targeted(session, task, target)
                spec = self._spec(ref, len(vehicles), settings or Settings())
                online = frozenset(vehicle.id for vehicle in vehicles if vehicle.online)
                order = wave_order((vehicle.id for vehicle in vehicles), online, f"{task}/{release}")
                return _insert(session, spec, order)
        except IntegrityError as error:  # another process claimed one in the same moment
            raise ConflictError(f"a vehicle of this rollout is in another active rollout of {task}") from error

    def list(self) -> Sequence[RolloutView]:
        """All rollouts, the newest first."""
        with self._database.reading() as session:
            found = session.scalars(select(RolloutRow).order_by(RolloutRow.id.desc())).all()
            return [_view(session, row) for row in found]

    def show(self, rollout_id: int) -> RolloutView:
        """One rollout. Raises NotFoundError."""
        with self._database.reading() as session:
            return _view(session, _get(session, rollout_id))

    def pause(self, rollout_id: int) -> RolloutView:
        """Offer it to nobody else for now. Raises NotFoundError, ConflictError where it has ended."""
        return self._change(rollout_id, lambda rollout: Plan(planning.pause(rollout, "paused by a person")))

    def resume(self, rollout_id: int) -> RolloutView:
        """Go on; a wave that its gate held is let pass. Raises NotFoundError, ConflictError where it has ended."""
        return self._change(rollout_id, lambda rollout: Plan(planning.resume(rollout)))

    def abort(self, rollout_id: int, take_back_all: bool = False) -> RolloutView:
        """End it: who has not succeeded gets the previous release again. Raises NotFoundError, ConflictError."""
        return self._change(rollout_id, lambda rollout: planning.abort(rollout, take_back_all))

    def tick(self) -> None:
        """Take every active rollout as far as the reports allow. One transaction each; repeating it changes nothing."""
        with self._database.reading() as session:
            active = session.scalars(select(RolloutRow.id).where(RolloutRow.state.in_(ACTIVE))).all()
        for rollout_id in active:
            with self._database.transaction() as session:
                row = _get(session, rollout_id, lock=True)
                members = rows.members_of(session, rollout_id)
                vehicles = _vehicles(session, members)
                reports = {key: said for key, value in vehicles.items() if (said := desired.reported_of(value))}
                step = planning.plan(rows.decode(row, members), reports, self._clock())
                _apply(session, row, members, vehicles, step)

    def _change(self, rollout_id: int, change: Callable[[Rollout], Plan]) -> RolloutView:
        with self._database.transaction() as session:
            row = _get(session, rollout_id, lock=True)
            if row.state not in ACTIVE:
                raise ConflictError(f"rollout {rollout_id} has ended ({row.state}); create a new one")
            members = rows.members_of(session, rollout_id)
            _apply(session, row, members, _vehicles(session, members), change(rows.decode(row, members)))
            session.flush()
            return _view(session, row)

    def _spec(self, ref: ReleaseRef, vehicles: int, settings: Settings) -> RolloutSpec:
        asked = {name: value for name, value in vars(settings).items() if value is not None}
        merged = {**msgspec.structs.asdict(self._defaults), **asked}
        policy = {key: merged.pop(key) for key in ("health_window_s", "fetch_bytes_per_s") if key in merged}
        sizes = wave_sizes(merged.pop("waves"), vehicles)
        try:
            raw = {"release": msgspec.to_builtins(ref), "wave_sizes": sizes, "policy": policy, **merged}
            return msgspec.convert(raw, RolloutSpec)
        except msgspec.ValidationError as error:
            raise ConfigError(f"rollout: {error}") from error


def _targeted(session: Session, task: str, target: Target) -> list[Vehicle]:
    by_id = {vehicle.id: vehicle for vehicle in session.scalars(select(Vehicle).order_by(Vehicle.id))}
    unknown = sorted(set(target.vehicles) - set(by_id))
    if unknown:
        raise NotFoundError(f"no vehicle {', '.join(unknown)}; 'roadloop vehicles list' shows those there are")
    able = {key for key, vehicle in by_id.items() if desired.slots_of(session, vehicle, task)}
    unable = sorted(set(target.vehicles) - able)
    if unable:
        raise BadInputError(f"vehicle {', '.join(unable)}: has no slot of task {task}, or has never reported")
    wanted = {key for key in able if target.everyone or set(target.tags) & set(by_id[key].tags)}
    chosen = sorted(wanted | set(target.vehicles))
    if not chosen:
        raise BadInputError(f"no vehicle with a slot of task {task} is targeted; name some, use a tag, or --all")
    return [by_id[key] for key in chosen]


def _insert(session: Session, spec: RolloutSpec, order: list[str]) -> int:
    task = spec.release.task
    taken = session.scalars(
        select(RolloutClaim).where(RolloutClaim.task == task, RolloutClaim.vehicle.in_(order))
    ).first()
    if taken is not None:
        raise ConflictError(
            f"vehicle {taken.vehicle} is in rollout {taken.rollout_id} of {task}, which is active; "
            f"wait for its end or abort it"
        )
    now = now_utc()
    row = RolloutRow(task=task, spec=rows.encode_spec(spec), state="running", created=now, updated=now)
    session.add(row)
    session.flush()
    position = 0
    for wave, size in enumerate(spec.wave_sizes):
        for vehicle in order[position : position + size]:
            session.add(RolloutMember(rollout_id=row.id, vehicle=vehicle, wave=wave, state="waiting", taken_back=False))
            session.add(RolloutClaim(task=task, vehicle=vehicle, rollout_id=row.id))
        position += size
    session.flush()
    return row.id


def _apply(
    session: Session, row: RolloutRow, members: list[RolloutMember], vehicles: dict[str, Vehicle], step: Plan
) -> None:
    """Write what a plan says: the rollout's own rows and the desired states that follow."""
    rows.encode(step.rollout, row, members)
    spec = step.rollout.spec
    by_vehicle = {member.vehicle: member for member in members}
    for vehicle_id in step.offer:
        vehicle, member = vehicles[vehicle_id], by_vehicle[vehicle_id]
        before = desired.slots_of(session, vehicle, spec.release.task)
        member.previous = {slot: rows.encode_ref(ref) for slot, ref in before.items()}
        desired.assign(session, vehicle, dict.fromkeys(before, spec.release), spec.policy)
    for vehicle_id in step.take_back:
        member = by_vehicle[vehicle_id]
        previous = {slot: rows.decode_ref(ref) for slot, ref in (member.previous or {}).items()}
        desired.assign(session, vehicles[vehicle_id], previous, spec.policy)
        member.taken_back = True
    if step.rollout.state not in ACTIVE:
        session.execute(delete(RolloutClaim).where(RolloutClaim.rollout_id == row.id))


def _vehicles(session: Session, members: list[RolloutMember]) -> dict[str, Vehicle]:
    ids = [member.vehicle for member in members]
    return {vehicle.id: vehicle for vehicle in session.scalars(select(Vehicle).where(Vehicle.id.in_(ids)))}


def _get(session: Session, rollout_id: int, lock: bool = False) -> RolloutRow:
    row = session.get(RolloutRow, rollout_id, with_for_update=lock)
    if row is None:
        raise NotFoundError(f"no rollout {rollout_id}; 'roadloop rollout list' shows those there are")
    return row


def _view(session: Session, row: RolloutRow) -> RolloutView:
    members = rows.members_of(session, row.id)
    vehicles = _vehicles(session, members)
    rollout = rows.decode(row, members)
    return RolloutView(
        id=row.id,
        spec=rollout.spec,
        state=rollout.state,
        reason=rollout.reason,
        wave=rollout.wave,
        members=tuple(
            MemberView(
                vehicle=member.vehicle,
                wave=member.wave,
                state=member.state,
                error=None if member.error is None else f"{member.error.code}: {member.error.detail}",
                report=desired.reported_of(vehicles[member.vehicle]),
            )
            for member in rollout.members
        ),
    )
