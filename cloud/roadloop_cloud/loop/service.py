"""Application service on the loops: sees what there is to see, decides, and begins generations as jobs."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.jobs import ENDED, Jobs
from roadloop_cloud.loop.decide import Decision, Generation, Seen, decide, since
from roadloop_cloud.loop.policy import LoopPolicy
from roadloop_cloud.retrain.pipeline import KIND
from roadloop_cloud.retrain.steps import delivered_bytes, published_release, spent_cpu_s, taught_by, told
from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.fleet_tables import Job, RolloutClaim
from roadloop_cloud.store.loop_tables import LoopDecision, LoopRow
from roadloop_models.errors import ConfigError, NotFoundError
from roadloop_models.typed import from_builtins

REMEMBERED = 200
"""Generations that a decision looks back on."""
_MAX_DETAIL = 500


class News(Protocol):
    """What tells the loop that there is something to learn; both are asked for what came after `since`."""

    def alarms(self, task: str, since: datetime) -> Sequence[str]:
        """Alarms of drift about the task, in words."""

    def new_labels(self, task: str, since: datetime, besides: Collection[str]) -> int:
        """How many labels of the task came, `besides` what these teachers said."""


@dataclass(frozen=True)
class LoopStatus:
    """One task's loop, for people."""

    task: str
    policy: LoopPolicy
    enabled: datetime | None
    asked: datetime | None
    decision: LoopDecision | None
    """The newest."""
    generations: Sequence[Generation]
    """Within the budget's period and before, the oldest first."""
    job: int | None
    """Of the newest generation."""
    did: Mapping[str, Any]
    """What its steps came to; see retrain/steps.py."""


class Loops:
    """All of it may be called from any process and thread; `tick` is repeatable and may run anywhere at once."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        news: News,
        free_bytes: Callable[[], int],
        now: Callable[[], datetime] = now_utc,
    ) -> None:
        """`now` is wall time: loops outlive processes. `free_bytes`: room on the workspace's disk."""
        self._database = database
        self._jobs = jobs
        self._news = news
        self._free_bytes = free_bytes
        self._now = now

    def enable(self, policy: LoopPolicy) -> None:
        """From now on the task learns by itself; a policy that was there is replaced. Its earlier turns still count."""
        with self._database.transaction() as session:
            row = session.get(LoopRow, policy.retrain.task, with_for_update=True)
            if row is None:
                row = LoopRow(task=policy.retrain.task, policy={}, enabled=None, asked=None)
                session.add(row)
            row.policy, row.enabled = msgspec.to_builtins(policy), row.enabled or self._now()

    def disable(self, task: str) -> None:
        """Begin no more by itself; a generation that runs comes to its end. Raises NotFoundError."""
        with self._database.transaction() as session:
            row = _get(session, task)
            row.enabled = row.asked = None

    def ask(self, task: str) -> Decision:
        """A person wants a generation, of a disabled loop too. What is decided about it now; it stays asked for.

        Raises NotFoundError where the task's loop was never enabled: nobody has said what it may do.
        """
        with self._database.transaction() as session:
            row = _get(session, task)
            row.asked = row.asked or self._now()
        return self._decide(task)

    def tick(self) -> dict[str, Decision]:
        """Decide about every loop; what was decided, by task."""
        with self._database.reading() as session:
            tasks = session.scalars(select(LoopRow.task).order_by(LoopRow.task)).all()
        return {task: self._decide(task) for task in tasks}

    def status(self) -> list[LoopStatus]:
        """Every loop, by task."""
        with self._database.reading() as session:
            rows = session.scalars(select(LoopRow).order_by(LoopRow.task)).all()
            return [self._status(session, row) for row in rows]

    def decisions(self, task: str | None = None, limit: int = 50) -> Sequence[LoopDecision]:
        """What was decided, the newest first."""
        query = select(LoopDecision).order_by(LoopDecision.id.desc()).limit(limit)
        with self._database.reading() as session:
            return session.scalars(query if task is None else query.where(LoopDecision.task == task)).all()

    def _decide(self, task: str) -> Decision:
        with self._database.reading() as session:
            row = _get(session, task, lock=False)
            turns = _turns(session, task)
            generations = [_generation(job) for job in turns]
        if row.enabled is None and row.asked is None:
            return Decision("rest", "disabled", "only a person begins one")
        start = since(row.enabled or self._now(), generations)
        # What a generation's own teacher said it has learned from itself: that is no news.
        own = {by for job in turns if (by := taught_by(job.steps)) is not None}
        alarms, labels = self._news.alarms(task, start), self._news.new_labels(task, start, own)
        free_bytes, now = self._free_bytes(), self._now()
        with self._database.transaction() as session:
            # Under the row's lock: what another decider has begun meanwhile is seen here, and not begun again.
            row = _get(session, task)
            fresh = _turns(session, task)
            begun = [job.id for job in fresh] != [job.id for job in turns]
            policy = _policy(row)
            seen = Seen(
                enabled=row.enabled or now,
                generations=[_generation(job) for job in fresh],
                asked=row.asked,
                alarms=() if begun else alarms,
                new_labels=0 if begun else labels,
                rollout=session.scalar(select(RolloutClaim.rollout_id).where(RolloutClaim.task == task).limit(1)),
                free_bytes=free_bytes,
            )
            decision = decide(policy, seen, now)
            job = None
            if decision.action == "start":
                job = self._begin(session, policy, fresh)
                row.asked = None
            _note(session, task, decision, job, now)
        return decision

    def _begin(self, session: Session, policy: LoopPolicy, turns: Sequence[Job]) -> int:
        """Queue the generation; the same rows from the same incumbent are not trained on again."""
        known = tuple(dict.fromkeys(learned for job in turns if (learned := learned_from(job)) is not None))
        spec = msgspec.structs.replace(policy.retrain, learned=known)
        return self._jobs.add_within(session, KIND, msgspec.to_builtins(spec))

    def _status(self, session: Session, row: LoopRow) -> LoopStatus:
        turns = _turns(session, row.task)
        newest = select(LoopDecision).where(LoopDecision.task == row.task).order_by(LoopDecision.id.desc()).limit(1)
        return LoopStatus(
            task=row.task,
            policy=_policy(row),
            enabled=row.enabled,
            asked=row.asked,
            decision=session.scalars(newest).first(),
            generations=[_generation(job) for job in turns],
            job=turns[-1].id if turns else None,
            did=told(turns[-1].steps if turns else {}),
        )


def learned_from(job: Job) -> str | None:
    """`<incumbent> <snapshot>` where the job has trained; None where it has not come so far."""
    steps: dict[str, Any] = job.steps
    if "train" not in steps:
        return None
    return f"{steps['begin']['result']['incumbent']} {steps['snapshot']['result']['sha256']}"


def _get(session: Session, task: str, *, lock: bool = True) -> LoopRow:
    row = session.get(LoopRow, task, with_for_update=lock)
    if row is None:
        raise NotFoundError(f"task {task} has no loop; 'roadloop loop enable' makes one")
    return row


def _policy(row: LoopRow) -> LoopPolicy:
    try:
        return from_builtins(row.policy, LoopPolicy)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"policy of the loop of {row.task}: {error}; 'roadloop loop enable {row.task}' sets it anew"
        ) from error


def _turns(session: Session, task: str) -> list[Job]:
    """The jobs of the task's generations, the oldest first."""
    query = (
        select(Job)
        .join(LoopDecision, LoopDecision.job_id == Job.id)
        .where(LoopDecision.task == task)
        .order_by(Job.id.desc())
        .limit(REMEMBERED)
    )
    return list(session.scalars(query))[::-1]


def _generation(job: Job) -> Generation:
    return Generation(
        began=job.created,
        ended=job.finished if job.state in ENDED else None,
        published=published_release(job.steps) is not None,
        cpu_s=spent_cpu_s(job.steps),
        delivered_bytes=delivered_bytes(job.steps),
    )


def _note(session: Session, task: str, decision: Decision, job: int | None, now: datetime) -> None:
    """Keep a decision that says something else than the one before it."""
    newest = select(LoopDecision).where(LoopDecision.task == task).order_by(LoopDecision.id.desc()).limit(1)
    last = session.scalars(newest).first()
    if job is None and last is not None and (last.action, last.why) == (decision.action, decision.why):
        last.detail = decision.detail[:_MAX_DETAIL]  # counts move on; what was decided has not changed
        return
    session.add(
        LoopDecision(
            task=task,
            at=now,
            action=decision.action,
            why=decision.why,
            detail=decision.detail[:_MAX_DETAIL],
            job_id=job,
        )
    )
