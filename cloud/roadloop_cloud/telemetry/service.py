"""Stored samples, for the command line, the jobs and the dataset builder."""

from collections.abc import Sequence

import pyarrow as pa

from roadloop_cloud.store.database import Database, begin_new_epoch
from roadloop_cloud.telemetry import account, move
from roadloop_cloud.telemetry.delta import DeltaFolder
from roadloop_cloud.telemetry.read import StreamReader


class Telemetry:
    """Application service on the telemetry of one workspace."""

    def __init__(self, database: Database, delta_root: str) -> None:
        """`delta_root`: a folder or URL."""
        self._database = database
        self._delta = DeltaFolder(delta_root)
        self._reader = StreamReader(database, self._delta)

    def move(self) -> move.Moved:
        """Move committed batches to the Delta tables. Repeatable; one process does it at a time."""
        return move.move_all(self._database, self._delta)

    def streams(self) -> list[str]:
        """Names of the streams of which anything is stored."""
        return self._reader.streams()

    def read_stream(self, stream: str, vehicles: Sequence[str] | None = None) -> pa.Table:
        """All samples of a stream by vehicle, boot and sequence number: `vehicle`, `boot`, `seq`, `t_ms`, `received`,
        `day` and the stream's own fields (float64). Empty where nothing is stored."""
        return self._reader.table(stream, vehicles)

    def query(self, sql: str) -> pa.Table:
        """SQL over the streams (`road-speed` is `road_speed`). Raises BadInputError where it is wrong."""
        return self._reader.query(sql)

    def gaps(self, vehicle: str | None = None) -> list[account.StreamAccount]:
        """The ledger per vehicle, boot and stream."""
        return account.stream_accounts(self._database, vehicle)

    def totals(self) -> account.Totals:
        """Samples of the whole fleet, counted in storage."""
        return account.totals(self._database, self._reader)

    def begin_new_epoch(self) -> int:
        """After restoring a backup: vehicles are asked for all that they still hold. Ingest must be started after."""
        with self._database.transaction() as session:
            return begin_new_epoch(session)
