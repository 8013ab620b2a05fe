"""The Delta tables, one a stream, partitioned by the day of arrival."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from roadloop_models.errors import RetryLaterError

COMPACT_FILES = 64
_KEY = ["vehicle", "boot", "seq"]


@dataclass(frozen=True)
class DeltaVersion:
    """One version of a stream's table, which later commits do not change, and the last move that is in it."""

    rows: ds.Dataset
    move_id: int


class DeltaFolder:
    """Delta tables below a folder or URL. Credentials of an object store come from the environment."""

    def __init__(self, root: str) -> None:
        """Nothing is opened yet."""
        self._root = root.rstrip("/")

    def read(self, stream: str, epoch: int) -> DeltaVersion | None:
        """The newest version of a stream's table, or None where it has none."""
        table = self._open(stream)
        return None if table is None else DeltaVersion(self._rows(stream, table), _last_move(table, epoch))

    def append(self, stream: str, rows: pa.Table, move_id: int, epoch: int, *, restored: bool) -> None:
        """Append the rows of one move, once however often it is called.

        The move's number is committed together with the rows, so a kill right after leaves a trace. With `restored`
        (the database was, and may have forgotten moves) rows that are in the table already are left out. Raises
        RetryLaterError where storage does not answer.
        """
        table = self._open(stream)
        if table is not None:
            if _last_move(table, epoch) >= move_id:
                return
            if restored:
                rows = _without_known(rows, self._rows(stream, table))
        # "error", not "append", on a table that was not there a moment ago: another mover may have made it meanwhile.
        options: dict[str, Any] = {"mode": "error"} if table is None else {"mode": "append", "schema_mode": "merge"}
        try:
            write_deltalake(
                self._uri(stream) if table is None else table,
                rows,
                partition_by=["day"],
                commit_properties=CommitProperties(app_transactions=[Transaction(_application(epoch), move_id)]),
                **options,
            )
        except DeltaError as error:
            table = self._open(stream)
            if table is not None and _last_move(table, epoch) >= move_id:
                return  # another process has committed the same move in this moment
            raise RetryLaterError(f"Delta table {self._uri(stream)}: {error}") from error

    def compact(self, stream: str) -> None:
        """Join small files, once there are many. Readers and writers go on meanwhile."""
        table = self._open(stream)
        if table is not None and len(table.file_uris()) > COMPACT_FILES:
            table.optimize.compact()

    def _rows(self, stream: str, table: DeltaTable) -> ds.Dataset:
        """Read through Arrow's own file system where the table is in a folder.

        That of deltalake is Python's. Arrow's threads may still let go of its files when the process ends, want the
        interpreter for that, and abort the process.
        """
        uri = self._uri(stream)
        if "://" in uri:
            return table.to_pyarrow_dataset()
        folder = pyarrow.fs.SubTreeFileSystem(uri, pyarrow.fs.LocalFileSystem())
        return table.to_pyarrow_dataset(filesystem=folder)

    def _open(self, stream: str) -> DeltaTable | None:
        try:
            return DeltaTable(self._uri(stream))
        except TableNotFoundError:
            return None

    def _uri(self, stream: str) -> str:
        return f"{self._root}/{stream}"


def _application(epoch: int) -> str:
    return f"roadloop-ledger-{epoch}"


def _last_move(table: DeltaTable, epoch: int) -> int:
    return table.transaction_version(_application(epoch)) or 0


def _without_known(rows: pa.Table, moved: ds.Dataset) -> pa.Table:
    boots = pc.field("boot").isin(pc.unique(rows["boot"]))
    vehicles = pc.field("vehicle").isin(pc.unique(rows["vehicle"]))
    span = pc.min_max(rows["seq"]).as_py()
    known = moved.to_table(
        columns=_KEY,
        filter=vehicles & boots & (pc.field("seq") >= span["min"]) & (pc.field("seq") <= span["max"]),
    )
    return rows.join(known, keys=_KEY, join_type="left anti")
