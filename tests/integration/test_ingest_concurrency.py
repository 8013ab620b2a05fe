"""Several ingest processes on one database, in threads that have a connection each: SQLite, and PostgreSQL by URL."""

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from roadloop_cloud.ingest.blobs import BlobFolder
from roadloop_cloud.ingest.commit import Rejection, commit_group, record_rejections
from roadloop_cloud.ingest.consumer import decode_item
from roadloop_cloud.store.base import Base
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.ingest_tables import Capture, LedgerStream, Meta, Rejected
from roadloop_cloud.telemetry.service import Telemetry
from roadloop_models.errors import MessageError
from tests.fakes.cloud import add_vehicle, batch_message, blob_messages, fresh_database, lost_message

POSTGRES_URL = os.environ.get("ROADLOOP_POSTGRES_URL")
THREADS = 4


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = fresh_database(tmp_path, "van-1", "van-2")
    elif POSTGRES_URL is None:
        pytest.skip("ROADLOOP_POSTGRES_URL names no empty database of a PostgreSQL to test with")
    else:
        made = Database(POSTGRES_URL)
        Base.metadata.drop_all(made.engine)
        made.create()
        for vehicle in ("van-1", "van-2"):
            add_vehicle(made, vehicle)
    yield made
    made.close()


def test_however_they_collide_each_sample_is_stored_once(database: Database, tmp_path: Path) -> None:
    messages = [batch_message("van-1", first, first + 9) for first in range(1, 201, 10)]
    messages += [batch_message("van-2", first, first + 14) for first in range(1, 201, 5)]  # they overlap
    messages += [lost_message("van-1", 150, 260), *blob_messages("van-1", b"x" * 200_000)]
    items = [decode_item(topic, payload, len(payload)) for topic, payload in messages]
    begin = threading.Barrier(THREADS)

    def commit(seed: int) -> None:
        order = random.Random(seed).sample(items, len(items))
        begin.wait()
        for start in range(0, len(order), 7):
            with database.transaction() as session:
                commit_group(session, order[start : start + 7], BlobFolder(tmp_path / "blobs"))

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(commit, range(THREADS)))
    telemetry = Telemetry(database, str(tmp_path / "telemetry"))
    assert telemetry.read_stream("health", ["van-1"])["seq"].to_pylist() == list(range(1, 201))
    telemetry.move()
    totals = telemetry.totals()
    assert (totals.produced, totals.stored, totals.duplicates, totals.lost) == (260 + 210, 200 + 210, 0, 60)
    with database.reading() as session:
        ledger = {(row.vehicle, row.stream): row for row in session.scalars(select(LedgerStream))}
        assert len(session.scalars(select(Capture)).all()) == 1
    assert ledger["van-1", "health"].accounted == [[1, 260]]
    assert ledger["van-1", "health"].stored == 200
    assert ledger["van-1", "blob"].stored == 4


def test_a_database_knows_its_own_version_and_keeps_times_in_their_zone(database: Database) -> None:
    database.create()
    database.check()
    with database.transaction() as session:
        record_rejections(session, [Rejection("a/\x00b", 1, MessageError("x\x00y"))])
        session.get_one(Meta, "schema_version")
    with database.reading() as session:
        (row,) = session.scalars(select(Rejected)).all()
    assert (row.topic, row.detail) == ("a/?b", "x?y")
    assert row.received.tzinfo is not None
