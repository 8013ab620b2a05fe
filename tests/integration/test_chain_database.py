"""SIGKILL for the database, a real PostgreSQL, at every step of a generation: nothing is half, nothing twice."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy.exc import SQLAlchemyError

from roadloop_cloud.jobs import Held, Jobs
from roadloop_cloud.store.database import Database
from tests.fakes import postgres
from tests.fakes.chain import Chain
from tests.fakes.postgres import Postgres

pytestmark = [pytest.mark.slow]
STEPS = 12


@pytest.fixture
def server() -> Iterator[Postgres]:
    reason = postgres.missing()
    if reason is not None:
        pytest.skip(reason)
    made = Postgres()
    yield made
    made.remove()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_database_killed_at_every_record_of_a_step_costs_at_most_that_step(
    tmp_path: Path, server: Postgres, moment: str
) -> None:
    database = Database(server.url)
    database.create()
    chain = Chain(tmp_path, database)
    record_step, kills = Jobs.record_step, []

    def restart() -> None:
        server.kill()
        threading.Timer(0.2, server.start).start()

    def recording(jobs: Jobs, job: Held, name: str, result: Any) -> None:
        first = name not in kills
        if first and moment == "before":
            kills.append(name)
            restart()
        record_step(jobs, job, name, result)
        if first and moment == "after":
            kills.append(name)
            restart()

    with mock.patch.object(Jobs, "record_step", recording):
        while _state(chain) != "done":
            try:
                chain.work()
            except SQLAlchemyError:
                chain.life += 1
    assert len(kills) == STEPS
    chain.check_end()
    database.close()


def _state(chain: Chain) -> str:
    while True:
        try:
            return chain.row.state
        except SQLAlchemyError:  # it is being started again
            threading.Event().wait(0.05)
