"""Jobs: work in a table, done by whoever holds its lease.

A job is done at least once: a worker that dies loses its lease, and another one takes the job up. Its steps are
recorded as they finish, so the next attempt goes on after the last of them; a step itself must be repeatable. A step
may be tried a few times; however many workers die on the way of a long job, each of its steps has that many attempts.
"""

import errno
import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any

from sqlalchemy import delete, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from roadloop_cloud.store.database import Database, now_utc
from roadloop_cloud.store.fleet_tables import Job
from roadloop_models.errors import (
    BadInputError,
    ConflictError,
    DiskFullError,
    NotFoundError,
    RetryLaterError,
    RoadloopError,
)

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)
MAX_ATTEMPTS = 3
"""Of one step."""
LEASE = timedelta(seconds=30)
_FIRST_PAUSE_S = 5.0
_NO_ROOM_PAUSE_S = 60.0
_RECORD_EVERY_S = 1.0
_RECORD_AGAIN_S = 1.0

_log = logging.getLogger(__name__)


class LeaseLostError(RoadloopError):
    """The job was cancelled, or another worker has taken it up because this one did not renew in time."""

    code = "lease-lost"


class StoppedError(RetryLaterError):
    """The worker ends; the job is queued again, and this attempt does not count."""

    code = "worker-stopped"


@dataclass(frozen=True)
class Held:
    """A job under a lease."""

    id: int
    kind: str
    spec: dict[str, Any]
    steps: dict[str, Any]
    attempt: int
    """Rises each time somebody takes the job up: a worker that lost its lease is told by it."""
    owner: str


class Jobs:
    """Application service on the job table; all of it may be called from any process and thread."""

    def __init__(self, database: Database, now: Callable[[], datetime] = now_utc, lease: timedelta = LEASE) -> None:
        """`now` is wall time: leases are shared between processes."""
        self._database = database
        self._now = now
        self.lease = lease

    def add(self, kind: str, spec: dict[str, Any], *, owner: str | None = None) -> int:
        """Queue a job, or with `owner` begin it under that worker's lease. Returns its id."""
        with self._database.transaction() as session:
            return self.add_within(session, kind, spec, owner=owner)

    def add_within(self, session: Session, kind: str, spec: dict[str, Any], *, owner: str | None = None) -> int:
        """The same in somebody's transaction: the job is there if that is committed, and not otherwise."""
        now = self._now()
        row = Job(
            kind=kind,
            spec=spec,
            state=QUEUED if owner is None else RUNNING,
            attempts=0 if owner is None else 1,
            step_attempts=0 if owner is None else 1,
            not_before=now,
            lease_owner=owner,
            lease_until=None if owner is None else now + self.lease,
            steps={},
            created=now,
        )
        session.add(row)
        session.flush()
        return row.id

    def add_periodic(self, kind: str) -> None:
        """Queue a job unless one of its kind has not ended yet; of those that have, only failures are kept."""
        with self._database.transaction() as session:
            session.execute(delete(Job).where(Job.kind == kind, Job.state == DONE))
            waiting = session.scalar(select(Job.id).where(Job.kind == kind, Job.state.not_in(ENDED)).limit(1))
        if waiting is None:
            self.add(kind, {})

    def claim(self, owner: str, kinds: Sequence[str]) -> Held | None:
        """The oldest job that is due, now leased to `owner`; also one whose worker let its lease run out."""
        now = self._now()
        due = or_(Job.state == QUEUED, (Job.state == RUNNING) & (Job.lease_until < now))
        query = select(Job).where(Job.kind.in_(kinds), Job.not_before <= now, due).order_by(Job.not_before, Job.id)
        with self._database.transaction() as session:
            # Each worker locks another row; SQLite has only the one lock of the whole transaction.
            while (row := session.scalars(query.limit(1).with_for_update(skip_locked=True)).first()) is not None:
                if row.step_attempts < MAX_ATTEMPTS:
                    row.state, row.lease_owner, row.lease_until = RUNNING, owner, now + self.lease
                    row.attempts += 1
                    row.step_attempts += 1
                    return _held(row)
                row.state, row.finished, row.lease_until = FAILED, now, None
                row.error = {"code": "abandoned", "detail": f"{row.step_attempts} workers ended without a word"}
                session.flush()
        return None

    def held(self, job_id: int) -> Held:
        """A job that this caller began itself."""
        with self._database.reading() as session:
            return _held(_get(session, job_id))

    def renew(self, job: Held) -> bool:
        """Hold the lease for longer; False where it is lost."""
        return self._write(job, lease_until=self._now() + self.lease)

    def record_progress(self, job: Held, text: str, done: float | None) -> None:
        """For people who watch. Raises LeaseLostError."""
        self._must(self._write(job, progress={"text": text, "done": done}), job)

    def record_step(self, job: Held, name: str, result: Any) -> None:
        """Keep the result of a finished step (JSON). Raises LeaseLostError."""
        with self._database.transaction() as session:
            row = _get(session, job.id, lock=True)
            self._must((row.state, row.lease_owner, row.attempts) == (RUNNING, job.owner, job.attempt), job)
            row.steps = {**row.steps, name: result}
            row.step_attempts = 1  # of the next step; this attempt goes on with it
        job.steps[name] = result

    def complete(self, job: Held, result: dict[str, Any]) -> bool:
        """End it well, whatever went wrong on the way; False where the lease is lost."""
        return self._write(job, state=DONE, result=result, error=None, finished=self._now(), lease_until=None)

    def fail(self, job: Held, code: str, detail: str, *, retry: bool) -> bool:
        """End it badly, or with `retry` queue it again after a pause, while attempts are left."""
        with self._database.transaction() as session:
            row = self._mine(session, job)
            if row is None:
                return False
            row.error = {"code": code, "detail": detail[:2000]}
            if retry and row.step_attempts < MAX_ATTEMPTS:
                self._queue_again(row, _FIRST_PAUSE_S * 2 ** (row.step_attempts - 1))
            else:
                row.state, row.finished, row.lease_until = FAILED, self._now(), None
        return True

    def postpone(self, job: Held, code: str, detail: str, pause_s: float) -> bool:
        """Queue it again after a pause, as if this attempt had not been; False where the lease is lost."""
        with self._database.transaction() as session:
            row = self._mine(session, job)
            if row is None:
                return False
            row.error = {"code": code, "detail": detail[:2000]}
            row.step_attempts -= 1
            self._queue_again(row, pause_s)
        return True

    def give_back(self, job: Held) -> bool:
        """Queue it again at once, as if this attempt had not been; False where the lease is lost."""
        with self._database.transaction() as session:
            row = self._mine(session, job)
            if row is None:
                return False
            row.step_attempts -= 1
            self._queue_again(row, 0.0)
        return True

    def retry(self, job_id: int) -> None:
        """Queue a failed job again; it goes on after its last step. Raises NotFoundError, ConflictError."""
        with self._database.transaction() as session:
            row = _get(session, job_id, lock=True)
            if row.state != FAILED:
                raise ConflictError(f"job {job_id} is {row.state}; only one that failed can be tried again")
            row.finished, row.step_attempts = None, 0
            self._queue_again(row, 0.0)

    def cancel(self, job_id: int) -> None:
        """End it without a result; its worker notices when it renews. Raises NotFoundError, ConflictError (ended)."""
        with self._database.transaction() as session:
            row = _get(session, job_id, lock=True)
            if row.state in ENDED:
                raise ConflictError(f"job {job_id} has ended ({row.state})")
            row.state, row.finished, row.lease_until = CANCELLED, self._now(), None

    def get(self, job_id: int) -> Job:
        """One job. Raises NotFoundError."""
        with self._database.reading() as session:
            return _get(session, job_id)

    def list(self, limit: int = 50) -> Sequence[Job]:
        """The newest jobs first."""
        with self._database.reading() as session:
            return session.scalars(select(Job).order_by(Job.id.desc()).limit(limit)).all()

    def _write(self, job: Held, **values: Any) -> bool:
        """Change the row only where the lease is still held."""
        mine = (Job.id == job.id, Job.state == RUNNING, Job.lease_owner == job.owner, Job.attempts == job.attempt)
        with self._database.transaction() as session:
            found = session.execute(update(Job).where(*mine).values(**values).returning(Job.id)).all()
        return bool(found)

    @staticmethod
    def _mine(session: Session, job: Held) -> Job | None:
        """The row, locked; None where the lease is lost."""
        mine = (Job.id == job.id, Job.state == RUNNING, Job.lease_owner == job.owner, Job.attempts == job.attempt)
        return session.scalars(select(Job).where(*mine).with_for_update()).first()

    def _queue_again(self, row: Job, pause_s: float) -> None:
        row.state, row.lease_owner, row.lease_until = QUEUED, None, None
        row.not_before = self._now() + timedelta(seconds=pause_s)

    @staticmethod
    def _must(held: bool, job: Held) -> None:
        if not held:
            raise LeaseLostError(f"job {job.id} ({job.kind}): was cancelled, or taken up by another worker")


class Work:
    """What a handler gets: the job, and a way to say how far it is."""

    def __init__(
        self,
        jobs: Jobs,
        job: Held,
        show: Callable[[str, float | None], None],
        lost: Callable[[], bool],
        stopping: Callable[[], bool],
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`show` also gets the progress; `lost`: the lease is gone; `stopping`: the worker shall end."""
        self._jobs = jobs
        self._show = show
        self._lost = lost
        self._stopping = stopping
        self._pause = pause
        self._recorded_s = 0.0
        self.job = job

    def progress(self, text: str, done: float | None = None) -> None:
        """Say what is done now, and how much of it (0..1); long work says so every second or so.

        Raises LeaseLostError where the job is no longer ours, StoppedError where the worker shall end.
        """
        if self._stopping():
            raise StoppedError(f"job {self.job.id} ({self.job.kind}): the worker ends")
        if self._lost():
            raise LeaseLostError(f"job {self.job.id} ({self.job.kind}): was cancelled, or taken up by another worker")
        self._show(text, done)
        now_s = time.monotonic()
        if now_s - self._recorded_s >= _RECORD_EVERY_S:
            self._recorded_s = now_s
            try:
                self._jobs.record_progress(self.job, text, done)
            except SQLAlchemyError:  # nobody sees it for a while; whether the job is still ours, the lease decides
                _log.exception("progress of job %d", self.job.id)

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        """The result of a step: from an earlier attempt, or computed and recorded now. Must be JSON."""
        if name not in self.job.steps:
            self.progress(name)
            result = function()
            self.record(lambda: self._jobs.record_step(self.job, name, result))
        return self.job.steps[name]

    def record(self, write: Callable[[], object]) -> None:
        """Write what was done, however long the database is away: nothing of it shall be done again for that.

        Raises LeaseLostError, StoppedError where the worker shall end meanwhile.
        """
        while True:
            try:
                write()
                return
            except SQLAlchemyError:
                _log.exception("job %d: the database does not take what was done; trying again", self.job.id)
            if self._stopping():
                raise StoppedError(f"job {self.job.id} ({self.job.kind}): the worker ends")
            self._pause(_RECORD_AGAIN_S)


Handler = Callable[[Work], dict[str, Any]]


def run_job(
    jobs: Jobs,
    job: Held,
    handler: Handler,
    show: Callable[[str, float | None], None] = lambda text, done: None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run a handler under its lease, which is renewed meanwhile, and record how it ended.

    Raises what the handler raised, after it has been recorded.
    """
    with _Renewal(jobs, job) as renewal:
        try:
            held = Work(jobs, job, show, renewal.lost.is_set, stopping)
            result = handler(held)
            held.record(lambda: jobs.complete(job, result))
            return result
        except LeaseLostError:
            raise
        except StoppedError:
            jobs.give_back(job)
            raise
        except Exception as error:
            _record_error(jobs, job, error)
            raise


def _record_error(jobs: Jobs, job: Held, error: Exception) -> None:
    if isinstance(error, DiskFullError) or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
        # Not the job's fault, and nobody knows how long it takes: it goes on when there is room.
        jobs.postpone(job, DiskFullError.code, str(error), _NO_ROOM_PAUSE_S)
    elif isinstance(error, RoadloopError):
        jobs.fail(job, error.code, str(error), retry=not isinstance(error, BadInputError))
    else:
        jobs.fail(job, "failed", "".join(traceback.format_exception(error, limit=-5)), retry=True)


def work(
    jobs: Jobs,
    handlers: Mapping[str, Handler],
    stop: threading.Event,
    *,
    periodic: Mapping[str, float] | None = None,
    idle_s: float = 0.5,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run jobs until `stop` is set. `periodic`: kinds to queue every so many seconds."""
    owner = worker_name()
    due_s = dict.fromkeys(periodic or {}, clock())
    while not stop.is_set():
        try:
            for kind, every_s in (periodic or {}).items():
                if clock() >= due_s[kind]:
                    jobs.add_periodic(kind)
                    due_s[kind] = clock() + every_s
            job = jobs.claim(owner, tuple(handlers))
        except SQLAlchemyError:
            _log.exception("the database does not answer; trying again")
            job = None
        if job is None:
            stop.wait(idle_s)
            continue
        try:
            run_job(jobs, job, handlers[job.kind], stopping=stop.is_set)
        except StoppedError as error:
            _log.info("%s", error)
        except Exception:  # noqa: BLE001 - whatever a job does, the next one must run; run_job has recorded it
            _log.exception("job %d (%s), attempt %d", job.id, job.kind, job.attempt)


def worker_name() -> str:
    """Names this process and thread, for leases."""
    return f"{socket.gethostname()[:40]}/{os.getpid()}/{threading.get_ident()}"


class _Renewal(AbstractContextManager["_Renewal"]):
    """Renews a lease from a thread of its own while the work goes on."""

    def __init__(self, jobs: Jobs, job: Held) -> None:
        self.lost = threading.Event()
        self._ended = threading.Event()
        self._jobs = jobs
        self._job = job
        self._thread = threading.Thread(target=self._run, name=f"lease-{job.id}", daemon=True)

    def __enter__(self) -> "_Renewal":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._jobs.lease.total_seconds() / 6):
            try:
                if not self._jobs.renew(self._job):
                    self.lost.set()
                    return
            except SQLAlchemyError:
                _log.exception("lease of job %d: trying again", self._job.id)


def _held(row: Job) -> Held:
    return Held(row.id, row.kind, dict(row.spec), dict(row.steps), row.attempts, row.lease_owner or "")


def _get(session: Session, job_id: int, lock: bool = False) -> Job:
    row = session.get(Job, job_id, with_for_update=lock)
    if row is None:
        raise NotFoundError(f"no job {job_id}")
    return row
