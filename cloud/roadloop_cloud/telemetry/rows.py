"""From raw batches to Arrow rows. Pure."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from roadloop_cloud.store.ingest_tables import PendingBatch
from roadloop_models.contract.columns import decode_columns

KEY_FIELDS = (
    pa.field("vehicle", pa.string()),
    pa.field("boot", pa.int64()),
    pa.field("seq", pa.int64()),
    pa.field("t_ms", pa.int64()),
    pa.field("received", pa.timestamp("us", tz="UTC")),
    pa.field("day", pa.string()),
)
"""Columns of every stream before its own: `t_ms` is the vehicle's wall clock, `received` and `day` the cloud's."""


def empty_table() -> pa.Table:
    """A stream of which nothing is stored."""
    return pa.schema(KEY_FIELDS).empty_table()


def batches_to_table(batches: Sequence[PendingBatch]) -> pa.Table:
    """The fresh samples of batches of one stream, one row a sample; a field that a batch lacks is null there.

    Fields are float64, NaN where the vehicle did not know. Raises MessageError where a batch does not decode.
    """
    if not batches:
        return empty_table()
    return pa.concat_tables([_rows(batch) for batch in batches], promote_options="default")


def _rows(batch: PendingBatch) -> pa.Table:
    columns = decode_columns(batch.columns)
    fresh = slice(batch.first_seq - batch.batch_first_seq, batch.last_seq - batch.batch_first_seq + 1)
    count = batch.last_seq - batch.first_seq + 1
    keys = (
        pa.repeat(pa.scalar(batch.vehicle), count),
        pa.repeat(pa.scalar(batch.boot, pa.int64()), count),
        pa.array(np.arange(batch.first_seq, batch.last_seq + 1, dtype=np.int64)),
        pa.array(columns.t_ms[fresh]),
        pa.repeat(pa.scalar(batch.received, pa.timestamp("us", tz="UTC")), count),
        pa.repeat(pa.scalar(batch.received.date().isoformat()), count),
    )
    values = [pa.array(np.ascontiguousarray(columns.values[fresh, index])) for index in range(len(columns.names))]
    fields = [pa.field(name, pa.float64()) for name in columns.names]
    return pa.table([*keys, *values], schema=pa.schema([*KEY_FIELDS, *fields]))
