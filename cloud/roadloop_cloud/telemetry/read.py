"""Reads streams whole: the Delta table and what has not been moved there yet, each sample exactly once."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from sqlalchemy import select

from roadloop_cloud.store.database import Database, ledger_epoch
from roadloop_cloud.store.ingest_tables import DeltaStream, PendingBatch
from roadloop_cloud.telemetry.delta import DeltaFolder
from roadloop_cloud.telemetry.rows import batches_to_table
from roadloop_models.errors import BadInputError


@dataclass(frozen=True)
class StreamRows:
    """All stored samples of one stream at one moment, in two parts."""

    moved: ds.Dataset | None
    pending: pa.Table


class StreamReader:
    """Reads streams of one database and its Delta tables."""

    def __init__(self, database: Database, delta: DeltaFolder) -> None:
        """Nothing is read yet."""
        self._database = database
        self._delta = delta

    def streams(self) -> list[str]:
        """Names of the streams of which anything is stored."""
        with self._database.reading() as session:
            moved = set(session.scalars(select(DeltaStream.stream)))
            return sorted(moved | set(session.scalars(select(PendingBatch.stream).distinct())))

    def rows(self, stream: str) -> StreamRows:
        """One consistent view of a stream, whatever a mover does meanwhile.

        The database is read first: a batch that is gone from it is in the table that is opened after. A batch that is
        in both is told by the number of its move. Where a move began and ended in between, all is read again.
        """
        while True:
            with self._database.reading() as session:
                head = session.get(DeltaStream, stream)
                last_begun = head.move_id if head is not None else 0
                epoch = ledger_epoch(session)
                pending = session.scalars(
                    select(PendingBatch).where(PendingBatch.stream == stream).order_by(PendingBatch.id)
                ).all()
            version = self._delta.read(stream, epoch)
            done = version.move_id if version is not None else 0
            if done <= last_begun:
                break
        waiting = [batch for batch in pending if batch.move_id is None or batch.move_id > done]
        return StreamRows(version.rows if version is not None else None, batches_to_table(waiting))

    def table(self, stream: str, vehicles: Sequence[str] | None = None) -> pa.Table:
        """All samples of a stream (of the given vehicles), ordered by vehicle, boot and sequence number."""
        rows = self.rows(stream)
        wanted = None if vehicles is None else pc.field("vehicle").isin(list(vehicles))
        parts = [rows.pending if wanted is None else rows.pending.filter(wanted)]
        if rows.moved is not None:
            parts.append(rows.moved.to_table(filter=wanted))
        joined = pa.concat_tables(parts, promote_options="permissive")
        return joined.sort_by([("vehicle", "ascending"), ("boot", "ascending"), ("seq", "ascending")])

    def query(self, sql: str) -> pa.Table:
        """Run SQL over the streams, each a view under its name with `_` for `-` and `.`, in DuckDB.

        Raises BadInputError where the SQL is wrong.
        """
        with duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"}) as connection:
            views = {view_name(stream): stream for stream in self.streams()}
            for view, stream in views.items():
                if view in sql:
                    self._define(connection, view, self.rows(stream))
            try:
                return connection.execute(sql).to_arrow_table()
            except duckdb.Error as error:
                known = ", ".join(views) or "none yet"
                raise BadInputError(f"query: {error}; the streams are {known}") from error

    @staticmethod
    def _define(connection: duckdb.DuckDBPyConnection, view: str, rows: StreamRows) -> None:
        connection.register(f"pending_{view}", rows.pending)
        body = f'SELECT * FROM "pending_{view}"'
        if rows.moved is not None:
            connection.register(f"moved_{view}", rows.moved)
            body = f'SELECT * FROM "moved_{view}" UNION ALL BY NAME {body}'
        connection.execute(f'CREATE VIEW "{view}" AS {body}')


def view_name(stream: str) -> str:
    """What a stream is called in SQL."""
    return stream.replace("-", "_").replace(".", "_")
