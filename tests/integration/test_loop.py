"""The loops on a real database: what is decided is begun once, noted once, and counted against the budget."""

import threading
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadloop_cloud.jobs import Held, Jobs, Work, run_job
from roadloop_cloud.loop.policy import Budget, LoopPolicy, Triggers
from roadloop_cloud.loop.service import Loops
from roadloop_cloud.retrain.pipeline import KIND, RetrainSpec
from roadloop_cloud.retrain.steps import TEACH, TimedSteps
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.loop_tables import LoopRow
from roadloop_models.errors import ConfigError, FailedError, NotFoundError
from tests.fakes.cloud import fresh_database

TASK = "traffic-speed"
POLICY = LoopPolicy(
    retrain=RetrainSpec(task=TASK, data="/data"),
    triggers=Triggers(new_labels=100),
    cool_down_s=3600.0,
    budget=Budget(generations=3),
)


class World:
    """Wall time and news that the test makes; alarms and labels with the time at which they came."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.raised: list[tuple[datetime, str]] = []
        self.labelled: list[datetime] = []
        self.own: list[Collection[str]] = []

    def clock(self) -> datetime:
        return self.now

    def alarms(self, task: str, since: datetime) -> Sequence[str]:
        assert task == TASK
        return [text for at, text in self.raised if at > since]

    def new_labels(self, task: str, since: datetime, besides: Collection[str]) -> int:
        assert task == TASK
        self.own.append(besides)
        return sum(at > since for at in self.labelled)

    def pass_(self, **time: float) -> None:
        self.now += timedelta(**time)

    def alarm(self, text: str = "speed of all cars shifted") -> None:
        self.pass_(seconds=1)
        self.raised.append((self.now, text))


class Loop:
    """The service with its world, and a retraining that takes a minute and publishes where it is told to."""

    def __init__(self, database: Database) -> None:
        self.world, self.database = World(), database
        self.jobs = Jobs(database, self.world.clock)
        self.loops = Loops(database, self.jobs, self.world, lambda: 10**12, self.world.clock)

    def _clock_s(self) -> float:
        return self.world.now.timestamp()

    def turn(self, *, published: bool = True, snapshot: str = "aa") -> Held:
        """Run the job that was begun."""
        job = self.jobs.claim("worker", [KIND])
        assert job is not None

        def handler(work: Work) -> dict[str, Any]:
            timed = TimedSteps(work, self._clock_s)
            timed.step("begin", lambda: {"incumbent": "v1", "candidate": "v2"})
            if job.spec["teacher"] is not None:
                timed.step(TEACH, lambda: {"by": "teacher big", "labelled": 3, "disagreed": 1})
            timed.step("snapshot", lambda: {"sha256": snapshot})
            timed.step("train", lambda: self.world.pass_(minutes=1))
            if published:
                timed.step("publish", lambda: 2)
                timed.step("delivery", lambda: 5000)
            return {}

        run_job(self.jobs, job, handler)
        return job

    def decisions(self) -> list[tuple[str, str]]:
        """The oldest first."""
        return [(one.action, one.why) for one in reversed(self.loops.decisions(TASK))]


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return Loop(fresh_database(tmp_path))


def test_an_alarm_begins_one_generation_and_the_next_one_waits_for_news(loop: Loop) -> None:
    loop.loops.enable(POLICY)
    assert loop.loops.tick()[TASK].why == "no-trigger"
    loop.world.alarm()
    assert loop.loops.tick()[TASK].why == "drift"
    loop.loops.tick()
    assert len(loop.jobs.list()) == 1, "one generation at a time"
    loop.turn()
    loop.world.pass_(hours=2)
    assert loop.loops.tick()[TASK].why == "no-trigger", "that alarm was heard"
    loop.world.alarm()
    loop.loops.tick()
    assert len(loop.jobs.list()) == 2
    assert loop.decisions() == [
        ("rest", "no-trigger"),
        ("start", "drift"),
        ("wait", "running"),
        ("rest", "no-trigger"),
        ("start", "drift"),
    ]
    assert [one.job_id for one in reversed(loop.loops.decisions(TASK))] == [None, 1, None, None, 2]


def test_what_stays_the_same_is_noted_once_with_its_newest_detail(loop: Loop) -> None:
    loop.loops.enable(POLICY)
    for _ in range(5):
        loop.world.pass_(seconds=10)
        loop.world.labelled.append(loop.world.now)
        loop.loops.tick()
    (one,) = loop.loops.decisions(TASK)
    assert one.detail == "no drift, 5 of 100 new labels"


def test_however_many_decide_at_once_a_generation_begins_once(tmp_path: Path) -> None:
    loop = Loop(fresh_database(tmp_path))
    loop.loops.enable(POLICY)
    loop.world.alarm()
    begin = threading.Barrier(4)

    def tick() -> None:
        begin.wait()
        loop.loops.tick()

    threads = [threading.Thread(target=tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(loop.jobs.list()) == 1
    assert [one for one in loop.decisions() if one[0] == "start"] == [("start", "drift")]


def test_a_decider_that_dies_before_its_commit_has_begun_nothing(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.loops.enable(POLICY)
    loop.world.alarm()
    with monkeypatch.context() as patch:
        patch.setattr("roadloop_cloud.loop.service._note", lambda *_: (_ for _ in ()).throw(SystemExit("killed")))
        with pytest.raises(SystemExit):
            loop.loops.tick()
    assert loop.jobs.list() == []
    assert loop.loops.tick()[TASK].action == "start"


def test_a_person_asks_and_it_stays_asked_for(loop: Loop) -> None:
    with pytest.raises(NotFoundError, match="loop enable"):
        loop.loops.ask(TASK)
    loop.loops.enable(POLICY)
    assert loop.loops.ask(TASK).why == "person"
    assert loop.loops.ask(TASK).why == "running"
    loop.turn()
    assert loop.loops.tick()[TASK].why == "person", "it was asked for while another one ran"
    loop.turn()
    assert loop.loops.tick()[TASK].action == "rest"


def test_disabled_it_begins_only_what_a_person_asks_for(loop: Loop) -> None:
    loop.loops.enable(POLICY)
    loop.loops.disable(TASK)
    loop.world.alarm()
    assert loop.loops.tick()[TASK].why == "disabled"
    assert loop.loops.ask(TASK).why == "person"
    loop.turn()
    assert loop.loops.tick()[TASK].why == "disabled"


def test_what_generations_cost_is_counted_against_the_budget(loop: Loop) -> None:
    loop.loops.enable(POLICY)
    for _ in range(3):
        loop.world.pass_(hours=20)
        loop.world.alarm()
        assert loop.loops.tick()[TASK].action == "start"
        loop.turn()
    loop.world.pass_(hours=20)
    loop.world.alarm()
    assert loop.loops.tick()[TASK].why == "budget"
    (status,) = loop.loops.status()
    assert [turn.delivered_bytes for turn in status.generations] == [5000] * 3
    assert [turn.published for turn in status.generations] == [True] * 3
    loop.world.pass_(days=7)
    assert loop.loops.tick()[TASK].action == "start"


def test_a_failed_generation_counts_and_lets_the_next_one_wait_longer(loop: Loop) -> None:
    loop.loops.enable(POLICY)
    loop.world.alarm()
    loop.loops.tick()
    job = loop.jobs.claim("worker", [KIND])
    assert job is not None
    loop.jobs.fail(job, FailedError.code, "no memory", retry=False)
    loop.world.alarm()
    loop.world.pass_(hours=1.5)
    assert loop.loops.tick()[TASK].why == "cool-down"
    loop.world.pass_(hours=1)
    assert loop.loops.tick()[TASK].why == "drift"


def test_what_was_learned_from_is_told_to_the_next_generation(loop: Loop) -> None:
    loop.loops.enable(POLICY)
    loop.loops.ask(TASK)
    assert loop.turn(published=False, snapshot="aa").spec["learned"] == []
    loop.loops.ask(TASK)
    assert loop.turn(published=False, snapshot="bb").spec["learned"] == ["v1 aa"]
    loop.loops.ask(TASK)
    assert loop.turn().spec["learned"] == ["v1 aa", "v1 bb"]


def test_a_policy_is_replaced_and_what_was_spent_still_counts(loop: Loop) -> None:
    loop.loops.enable(POLICY)
    loop.loops.ask(TASK)
    loop.turn()
    loop.loops.enable(LoopPolicy(retrain=POLICY.retrain, budget=Budget(generations=1)))
    assert loop.loops.ask(TASK).why == "budget"


def test_what_a_generations_own_teacher_said_is_no_news(loop: Loop) -> None:
    taught = msgspec.structs.replace(POLICY.retrain, teacher="big")
    loop.loops.enable(msgspec.structs.replace(POLICY, retrain=taught))
    loop.loops.ask(TASK)
    assert set(loop.world.own[-1]) == set()
    assert loop.turn().spec["teacher"] == "big"
    loop.loops.tick()
    assert set(loop.world.own[-1]) == {"teacher big"}


def test_a_policy_with_what_nobody_knows_is_refused_by_name(loop: Loop) -> None:
    loop.loops.enable(POLICY)
    with loop.database.transaction() as session:
        row = session.get_one(LoopRow, TASK)
        row.policy = {**row.policy, "retrain": {**row.policy["retrain"], "teachr": "big"}}
    with pytest.raises(ConfigError, match=r"loop of traffic-speed: .*teachr.*loop enable traffic-speed"):
        loop.loops.tick()
