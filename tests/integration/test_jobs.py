"""Jobs: each is done, by one worker at a time, and goes on where the last attempt ended."""

import errno
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from roadloop_cloud.jobs import MAX_ATTEMPTS, Held, Jobs, LeaseLostError, Work, run_job, work
from roadloop_models.errors import ConfigError, ConflictError, NotFoundError, RetryLaterError
from tests.fakes.cloud import fresh_database

KINDS = ("test",)


class Clock:
    """Wall time that the test moves."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(tmp_path: Path, clock: Clock) -> Jobs:
    return Jobs(fresh_database(tmp_path), clock)


def claimed(jobs: Jobs, owner: str = "a") -> Held:
    job = jobs.claim(owner, KINDS)
    assert job is not None
    return job


def test_the_oldest_first_and_each_once(jobs: Jobs) -> None:
    ids = [jobs.add("test", {"n": n}) for n in range(3)]
    jobs.add("other", {})
    assert [claimed(jobs).id for _ in range(3)] == ids
    assert jobs.claim("b", KINDS) is None


def test_a_lease_that_runs_out_is_taken_up(jobs: Jobs, clock: Clock) -> None:
    jobs.add("test", {})
    first = claimed(jobs)
    clock.pass_(29)
    assert jobs.claim("b", KINDS) is None
    assert jobs.renew(first)
    clock.pass_(29)
    assert jobs.claim("b", KINDS) is None
    clock.pass_(2)
    second = claimed(jobs, "b")
    assert (second.id, second.attempt) == (first.id, 2)
    assert not jobs.renew(first)
    assert not jobs.complete(first, {"by": "a"})
    with pytest.raises(LeaseLostError):
        jobs.record_step(first, "late", 1)
    assert jobs.complete(second, {"by": "b"})
    assert jobs.get(first.id).result == {"by": "b"}


def test_a_job_that_kills_its_workers_is_given_up(jobs: Jobs, clock: Clock) -> None:
    job = jobs.add("test", {})
    for _ in range(MAX_ATTEMPTS):
        claimed(jobs)
        clock.pass_(31)
    assert jobs.claim("a", KINDS) is None
    assert jobs.get(job).state == "failed"
    assert (jobs.get(job).error or {})["code"] == "abandoned"


def test_steps_are_not_repeated(jobs: Jobs, clock: Clock) -> None:
    jobs.add("test", {})
    calls: Counter[str] = Counter()

    def count(name: str) -> str:
        calls[name] += 1
        return name.upper()

    def handler(task: Work) -> dict[str, Any]:
        first = task.step("first", lambda: count("first"))
        if task.job.attempt == 1:
            raise RetryLaterError("the line is down")
        return {"first": first, "second": task.step("second", lambda: count("second"))}

    with pytest.raises(RetryLaterError):
        run_job(jobs, claimed(jobs), handler)
    assert jobs.claim("a", KINDS) is None, "not before a pause"
    clock.pass_(6)
    assert run_job(jobs, claimed(jobs), handler) == {"first": "FIRST", "second": "SECOND"}
    assert calls == {"first": 1, "second": 1}


def test_a_step_that_is_done_gives_the_next_one_all_its_attempts(jobs: Jobs, clock: Clock) -> None:
    """A long job whose worker is killed in each of its steps comes to its end all the same."""
    job = jobs.add("test", {})
    names = [f"step {n}" for n in range(2 * MAX_ATTEMPTS)]

    def handler(task: Work) -> dict[str, Any]:
        for name in names:
            if name not in task.job.steps:
                task.step(name, lambda: None)
                raise SystemExit(name)  # as if killed: nothing is recorded of it
        return {}

    for _ in names:
        with pytest.raises(SystemExit):
            run_job(jobs, claimed(jobs), handler)
        clock.pass_(31)
    assert run_job(jobs, claimed(jobs), handler) == {}
    assert jobs.get(job).attempts == len(names) + 1


def test_a_full_disk_costs_no_attempt(jobs: Jobs, clock: Clock) -> None:
    job = jobs.add("test", {})

    def handler(task: Work) -> dict[str, Any]:
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(2 * MAX_ATTEMPTS):
        with pytest.raises(OSError, match="space"):
            run_job(jobs, claimed(jobs), handler)
        assert (jobs.get(job).state, (jobs.get(job).error or {})["code"]) == ("queued", "disk-full")
        clock.pass_(61)
    assert run_job(jobs, claimed(jobs), lambda _: {"room": True}) == {"room": True}


def test_what_a_step_made_is_recorded_when_the_database_is_back(
    jobs: Jobs, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.add("test", {})
    calls, away = [0], [3]
    record_step = jobs.record_step

    def made() -> int:
        calls[0] += 1
        return calls[0]

    def recording(job: Held, name: str, result: Any) -> None:
        if away[0]:
            away[0] -= 1
            raise OperationalError("UPDATE", {}, Exception("server closed the connection"))
        record_step(job, name, result)

    monkeypatch.setattr(jobs, "record_step", recording)
    monkeypatch.setattr("roadloop_cloud.jobs._RECORD_AGAIN_S", 0.0)

    def handler(task: Work) -> dict[str, Any]:
        return {"result": task.step("costly", made)}

    assert run_job(jobs, claimed(jobs), handler) == {"result": 1}
    assert away == [0]


def test_a_job_that_failed_goes_on_after_its_last_step_when_a_person_says_so(jobs: Jobs) -> None:
    job = jobs.add("test", {})
    keys: list[str] = []

    def handler(task: Work) -> dict[str, Any]:
        first = task.step("first", lambda: "made once")
        if not keys:
            raise ConfigError("the keys are not there")
        return {"first": first}

    with pytest.raises(ConfigError):
        run_job(jobs, claimed(jobs), handler)
    keys.append("there")
    jobs.retry(job)
    assert run_job(jobs, claimed(jobs), handler) == {"first": "made once"}
    with pytest.raises(ConflictError, match="done"):
        jobs.retry(job)


def test_bad_input_is_not_tried_again(jobs: Jobs) -> None:
    job = jobs.add("test", {})

    def handler(task: Work) -> dict[str, Any]:
        raise ConfigError("no such file")

    with pytest.raises(ConfigError):
        run_job(jobs, claimed(jobs), handler)
    assert jobs.get(job).state == "failed"
    assert jobs.get(job).error == {"code": "config-invalid", "detail": "no such file"}


def test_attempts_end(jobs: Jobs, clock: Clock) -> None:
    job = jobs.add("test", {})

    def handler(task: Work) -> dict[str, Any]:
        raise ZeroDivisionError

    for _ in range(MAX_ATTEMPTS):
        with pytest.raises(ZeroDivisionError):
            run_job(jobs, claimed(jobs), handler)
        clock.pass_(60)
    assert jobs.claim("a", KINDS) is None
    assert "ZeroDivisionError" in (jobs.get(job).error or {})["detail"]


def test_a_cancelled_job_stops_at_its_next_word(jobs: Jobs) -> None:
    job = jobs.add("test", {})

    def handler(task: Work) -> dict[str, Any]:
        jobs.cancel(job)
        task.step("more", lambda: pytest.fail("went on"))
        return {}

    with pytest.raises(LeaseLostError):
        run_job(jobs, claimed(jobs), handler)
    assert jobs.get(job).state == "cancelled"
    with pytest.raises(ConflictError):
        jobs.cancel(job)
    with pytest.raises(NotFoundError):
        jobs.cancel(99)


def test_a_worker_that_ends_gives_its_job_back(jobs: Jobs) -> None:
    job = jobs.add("test", {})
    stop = threading.Event()

    def handler(task: Work) -> dict[str, Any]:
        task.step("first", lambda: 1)
        stop.set()
        return {"second": task.step("second", lambda: 2)}

    work(jobs, {"test": handler}, stop)
    row = jobs.get(job)
    assert (row.state, row.step_attempts, row.steps) == ("queued", 0, {"first": 1})
    assert run_job(jobs, claimed(jobs), handler) == {"second": 2}


def test_a_job_begun_by_its_caller_is_nobody_elses(jobs: Jobs, clock: Clock) -> None:
    job = jobs.held(jobs.add("test", {}, owner="me"))
    assert jobs.claim("b", KINDS) is None
    assert run_job(jobs, job, lambda _: {"ok": True}) == {"ok": True}
    other = jobs.add("test", {}, owner="me")
    clock.pass_(31)
    assert claimed(jobs, "b").id == other


def test_four_threads_do_each_job_exactly_once(tmp_path: Path) -> None:
    database = fresh_database(tmp_path)
    jobs = Jobs(database)
    total = 40
    for n in range(total):
        jobs.add("test", {"n": n})
    done: Counter[int] = Counter()
    lock, stop = threading.Lock(), threading.Event()

    def handler(task: Work) -> dict[str, Any]:
        with lock:
            done[task.job.spec["n"]] += 1
            if len(done) == total:
                stop.set()
        return {}

    threads = [
        threading.Thread(target=work, args=(jobs, {"test": handler}, stop), kwargs={"idle_s": 0.02}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert done == Counter(range(total))
    assert {job.state for job in jobs.list(total)} == {"done"}


def test_periodic_jobs_do_not_pile_up(jobs: Jobs) -> None:
    for _ in range(5):
        jobs.add_periodic("test")
        jobs.add_periodic("test")
        jobs.complete(claimed(jobs), {})
    assert len(jobs.list()) == 1
