"""Rollouts as people and programs use them; `tick` applies the plan, and may be repeated at any time by anybody."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.registry.releases import Releases, release_ref
from roadloop_cloud.rollout import approvals, rows
from roadloop_cloud.rollout import plan as planning
from roadloop_cloud.rollout.applying import apply
from roadloop_cloud.rollout.candidates import candidates
from roadloop_cloud.rollout.hearing import Hearing
from roadloop_cloud.rollout.members import UNASSIGNED, Member
from roadloop_cloud.rollout.settings import Settings, specification
from roadloop_cloud.rollout.spec import RolloutSpec, Target
from roadloop_cloud.rollout.state import ACTIVE, Plan, Rollout
from roadloop_cloud.rollout.statements import Operators, Signatory
from roadloop_cloud.rollout.target import Candidate, Requirement, Selection, in_share
from roadloop_cloud.rollout.target import select as select_vehicles
from roadloop_cloud.rollout.views import MemberView, RolloutView, view
from roadloop_cloud.rollout.waves import wave_order
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.fleet_tables import RolloutClaim, RolloutRow
from roadloop_models.errors import BadInputError, ConflictError, NotFoundError, RoadloopError

__all__ = ["MemberView", "RolloutView", "Rollouts", "Settings", "Target"]

_log = logging.getLogger(__name__)

JOIN_EVERY_S = 60.0
"""How often vehicles are looked for that match a rollout only now."""


@dataclass(frozen=True)
class Prepared:
    """A rollout that has not begun: what is asked for, and who would take part in which order."""

    spec: RolloutSpec
    selection: Selection
    order: tuple[Candidate, ...]
    requirements: tuple[Requirement, ...]
    fleet: int
    """Vehicles that have a slot of the first task, whether they are meant or not."""


class Rollouts:
    """Application service on the rollout tables."""

    def __init__(
        self,
        database: Database,
        releases: Releases,
        defaults: RolloutConfig,
        clock: Callable[[], float],
        operators: Operators,
    ) -> None:
        """`clock` gives seconds since the epoch: rollouts outlive processes, so their times are wall times."""
        self._database = database
        self._releases = releases
        self._defaults = defaults
        self._clock = clock
        self._operators = operators
        self._hearing = Hearing()
        self._decoded: dict[int, tuple[int, Rollout]] = {}
        self._requirements: dict[tuple[str, int], Requirement] = {}
        self._join_due_s = clock()

    def create(
        self,
        task: str,
        release: int,
        target: Target,
        settings: Settings | None = None,
        *,
        also: Sequence[tuple[str, int]] = (),
        author: Signatory | None = None,
        unattended: bool = False,
    ) -> int:
        """Begin to take a release to vehicles; the first wave is offered by the next tick. Returns the rollout's id.

        `also` are releases of other tasks that go with it. Where people must approve it, its author has to prove who
        they are, unless it is `unattended`: then a program asks, and any operator may approve.
        Raises NotFoundError (no such release or vehicle), ConfigError (waves, thresholds), BadInputError (nobody is
        left, no author where approvals are needed) or ConflictError where a vehicle's task is in an active rollout.
        """
        if author is not None:
            self._operators.check(author)
        requirements = self._required([(task, release), *also])
        try:
            with self._database.transaction() as session:
                prepared = self._prepare(session, requirements, target, settings or Settings())
                _refuse(prepared)
                if prepared.spec.approvals and author is None and not unattended:
                    raise BadInputError("this rollout needs approvals: say who creates it by --as NAME --key FILE")
                return _insert(session, prepared, author)
        except IntegrityError as error:  # another process claimed one in the same moment
            raise ConflictError(f"a vehicle of this rollout is in another active rollout of {task}") from error

    def prepare(
        self,
        task: str,
        release: int,
        target: Target,
        settings: Settings | None = None,
        *,
        also: Sequence[tuple[str, int]] = (),
    ) -> Prepared:
        """What `create` would do, without doing it. Raises as `create`, but for collisions, which are told."""
        requirements = self._required([(task, release), *also])
        with self._database.reading() as session:
            return self._prepare(session, requirements, target, settings or Settings())

    def list(self) -> Sequence[RolloutView]:
        """All rollouts, the newest first; what their vehicles report is left out."""
        now_s = self._clock()
        with self._database.reading() as session:
            found = session.scalars(select(RolloutRow).order_by(RolloutRow.id.desc())).all()
            return [view(row.id, self._load(session, row), {}, now_s, row.created_by) for row in found]

    def show(self, rollout_id: int) -> RolloutView:
        """One rollout. Raises NotFoundError."""
        with self._database.reading() as session:
            row = rows.get(session, rollout_id)
            return self._view(session, row, self._load(session, row))

    def pause(self, rollout_id: int) -> RolloutView:
        """Offer it to nobody else for now. Raises NotFoundError, ConflictError where it has ended."""
        return self._change(rollout_id, lambda rollout: Plan(planning.pause(rollout, "paused by a person")))

    def resume(self, rollout_id: int) -> RolloutView:
        """Go on; a wave that its gate held is let pass. Raises NotFoundError, ConflictError where it has ended."""
        return self._change(rollout_id, lambda rollout: Plan(planning.resume(rollout)))

    def abort(self, rollout_id: int, take_back_all: bool = False) -> RolloutView:
        """End it: who has not succeeded gets the previous release again. Raises NotFoundError, ConflictError."""
        return self._change(rollout_id, lambda rollout: planning.abort(rollout, take_back_all))

    def roll_back(self, rollout_id: int, cohort: str | None = None) -> RolloutView:
        """Take it back from a cohort, or from all: the latter after its success too, where nothing newer came.

        Raises NotFoundError (no such rollout or cohort), ConflictError where it has ended otherwise.
        """
        reason = "taken back by a person" if cohort is None else f"taken back by a person from {cohort}"

        def change(rollout: Rollout) -> Plan:
            known = sorted({member.cohort for member in rollout.members})
            if cohort is not None and cohort not in known:
                raise NotFoundError(f"no cohort {cohort!r} in rollout {rollout_id}; there are {'; '.join(known)}")
            return planning.roll_back(rollout, reason, cohort)

        ended = () if cohort is not None else ("succeeded",)
        return self._change(rollout_id, change, also_ended=ended)

    def approve(self, rollout_id: int, who: Signatory, *, wave: int | None = None, approve: bool = True) -> RolloutView:
        """Keep an operator's signed word on a wave (from 1; None: the current one) and those before it.

        Raises NotFoundError, TrustError (not that operator's key), ConflictError (ended, or their own rollout).
        """
        self._operators.check(who)
        with self._database.transaction() as session:
            row = self._active(session, rollout_id)
            approvals.sign_approval(session, row, who, wave=wave or row.wave + 1, approve=approve)
            session.flush()
            return self._view(session, row, self._decode(session, row))

    def tick(self) -> None:
        """Take every active rollout as far as the reports allow. One transaction each; repeating it changes nothing."""
        now_s = self._clock()
        joining = now_s >= self._join_due_s
        if joining:
            self._join_due_s = now_s + JOIN_EVERY_S
        with self._database.reading() as session:
            active = session.scalars(select(RolloutRow.id).where(RolloutRow.state.in_(ACTIVE))).all()
        for rollout_id in active:
            if joining:
                self._join(rollout_id)
            self._step(rollout_id, now_s)
        self._decoded = {key: value for key, value in self._decoded.items() if key in active}

    def _step(self, rollout_id: int, now_s: float) -> None:
        with self._database.reading() as session:
            row = rows.get(session, rollout_id)
            before, revision = self._load(session, row), row.revision
            heard = self._hearing.of_rollout(session, rollout_id)
        step = planning.plan(before, heard, now_s)
        if step == Plan(before):
            return
        with self._database.transaction() as session:
            row = rows.get(session, rollout_id, lock=True)
            if row.revision != revision:  # somebody was quicker; the next tick looks anew
                return
            apply(session, row, before, step)

    def _join(self, rollout_id: int) -> None:
        """Take in vehicles that match only now, as members of the last wave."""
        with self._database.reading() as session:
            row = rows.get(session, rollout_id)
            spec = rows.spec_of(row)
            meant = spec.target.everyone or spec.target.tags or spec.target.hardware
            if not spec.late_joiners or row.state != "running" or not meant:
                return
            releases = [(ref.task, ref.release) for ref in spec.releases]
            try:
                requirements = self._required(releases)
            except RoadloopError as error:  # a bundle is damaged: those who take part have what they need
                _log.warning("rollout %d: nobody can join it: %s", rollout_id, error)
                return
            others = candidates(session, releases, not_in=rollout_id)
            suffering = {member.cohort for member in self._load(session, row).members if member.taken_back}
        target = msgspec.structs.replace(spec.target, vehicles=(), share=1.0)
        salt = _salt(spec)
        found = select_vehicles(others, target, requirements)
        joining = [
            one
            for one in found.chosen
            if one.vehicle not in found.collisions
            and in_share(one.vehicle, spec.target.share, salt)
            and one.cohort(spec.tasks) not in suffering
        ]
        if not joining:
            return
        wave = UNASSIGNED if spec.ramp is not None else len(spec.wave_sizes) - 1
        try:
            with self._database.transaction() as session:
                row = rows.get(session, rollout_id, lock=True)
                if row.state != "running":
                    return
                position = len(rows.decode(session, row).members)
                _add_members(session, row.id, spec, [(one, wave) for one in joining], position)
                row.revision += 1
        except IntegrityError:  # another process took one of them in the same moment; the next look decides
            return

    def _change(
        self, rollout_id: int, change: Callable[[Rollout], Plan], also_ended: Sequence[str] = ()
    ) -> RolloutView:
        with self._database.transaction() as session:
            row = self._active(session, rollout_id, also_ended)
            before = self._decode(session, row)
            step = change(before)
            if step != Plan(before):
                apply(session, row, before, step)
            session.flush()
            return self._view(session, row, self._decode(session, row))

    def _active(self, session: Session, rollout_id: int, also_ended: Sequence[str] = ()) -> RolloutRow:
        row = rows.get(session, rollout_id, lock=True)
        if row.state not in ACTIVE and row.state not in also_ended:
            raise ConflictError(f"rollout {rollout_id} has ended ({row.state}); create a new one")
        return row

    def _load(self, session: Session, row: RolloutRow) -> Rollout:
        """The rollout of a row as it is committed; decoded anew only where it changed. For reading sessions alone."""
        known = self._decoded.get(row.id)
        if known is None or known[0] != row.revision:
            known = self._decoded[row.id] = (row.revision, rows.decode(session, row))
        return self._approved(session, row, known[1])

    def _decode(self, session: Session, row: RolloutRow) -> Rollout:
        """The same inside a transaction, which may yet be undone."""
        return self._approved(session, row, rows.decode(session, row))

    def _approved(self, session: Session, row: RolloutRow, rollout: Rollout) -> Rollout:
        """With its approvals, which are verified each time: an operator may have been removed since."""
        if rollout.spec.approvals == 0:
            return rollout
        return replace(rollout, approvals=approvals.verified(session, row, rollout.spec, self._operators))

    def _view(self, session: Session, row: RolloutRow, rollout: Rollout) -> RolloutView:
        heard = self._hearing.of_rollout(session, row.id)
        return view(row.id, rollout, heard, self._clock(), row.created_by)

    def _required(self, releases: Sequence[tuple[str, int]]) -> tuple[Requirement, ...]:
        tasks = [task for task, _ in releases]
        if len(set(tasks)) != len(tasks):
            raise BadInputError(f"releases of {', '.join(tasks)}: a rollout takes one release of a task")
        for key in releases:
            if key not in self._requirements:
                row = self._releases.get(*key)
                self._requirements[key] = Requirement(release_ref(row), self._releases.published_bundle(row).manifest)
        return tuple(self._requirements[key] for key in releases)

    def _prepare(
        self, session: Session, requirements: tuple[Requirement, ...], target: Target, settings: Settings
    ) -> Prepared:
        tasks = [one.ref.task for one in requirements]
        known = candidates(session, [(one.ref.task, one.ref.release) for one in requirements])
        unknown = sorted(set(target.vehicles) - {one.vehicle for one in known})
        if unknown:
            raise NotFoundError(f"no vehicle {', '.join(unknown)}; 'roadloop vehicles list' shows those there are")
        selection = select_vehicles(known, target, requirements)
        spec = specification(requirements, target, len(selection.chosen), settings, self._defaults)
        by_id = {one.vehicle: one for one in selection.chosen}
        online = frozenset(one.vehicle for one in selection.chosen if one.online)
        order = wave_order(by_id, online, _salt(spec))
        fleet = sum(bool(one.slots(tasks[0])) for one in known)
        return Prepared(spec, selection, tuple(by_id[vehicle] for vehicle in order), requirements, fleet)


def _salt(spec: RolloutSpec) -> str:
    return "+".join(f"{ref.task}/{ref.release}" for ref in spec.releases)


def _refuse(prepared: Prepared) -> None:
    """Raise where a rollout cannot begin."""
    selection, spec = prepared.selection, prepared.spec
    without = [vehicle for vehicle in spec.target.vehicles if "has no slot" in selection.left_out.get(vehicle, "")]
    if without:
        raise BadInputError(f"vehicle {', '.join(without)}: {selection.left_out[without[0]]}")
    if not selection.chosen:
        why = "; ".join(f"{vehicle} {reason}" for vehicle, reason in list(selection.left_out.items())[:5])
        tasks = ", ".join(sorted(spec.tasks))
        raise BadInputError(
            f"no vehicle with a slot of task {tasks} is left to take it; name some, use a tag, or --all"
            + (f" ({why})" if why else "")
        )
    if selection.collisions:
        vehicle, other = next(iter(selection.collisions.items()))
        more = len(selection.collisions) - 1
        raise ConflictError(
            f"vehicle {vehicle}{f' and {more} more' if more else ''} is in rollout {other} of the same task, "
            f"which is active; wait for its end or abort it"
        )


def _insert(session: Session, prepared: Prepared, author: Signatory | None) -> int:
    spec, now = prepared.spec, now_utc()
    row = RolloutRow(
        task=spec.release.task,
        spec=rows.encode_spec(spec),
        state="running",
        reason="",
        wave=0,
        waived_wave=-1,
        proofs=[],
        created_by=None if author is None else author.name,
        revision=0,
        created=now,
        updated=now,
    )
    session.add(row)
    session.flush()
    if author is not None:
        approvals.sign_creation(session, row.id, spec, author)
    waves = [wave for wave, size in enumerate(spec.wave_sizes) for _ in range(size)]
    placed = zip(prepared.order, waves or [UNASSIGNED] * len(prepared.order), strict=True)
    _add_members(session, row.id, spec, list(placed), 0)
    session.flush()
    return row.id


def _add_members(
    session: Session, rollout_id: int, spec: RolloutSpec, placed: Sequence[tuple[Candidate, int]], position: int
) -> None:
    members = [Member(one.vehicle, wave, cohort=one.cohort(spec.tasks)) for one, wave in placed]
    rows.insert(session, rollout_id, members, position)
    session.add_all(
        RolloutClaim(task=task, vehicle=member.vehicle, rollout_id=rollout_id)
        for member in members
        for task in sorted(spec.tasks)
    )
