"""Telemetry samples as columns: scaled-integer deltas, constants folded, zstd.

A batch describes itself: names and resolutions travel with it, so the cloud stores streams that it has never heard of.
Layout before compression: MessagePack `[rows, [column, …]]`, a column being `[name, resolution, kind, first, data]`:

- constant (0): every row has the value `first * resolution` (or `first` itself where resolution is 0)
- deltas (1, 2, 4, 8: bytes per delta): row 0 is `first`, the others are little-endian signed differences
- raw (9): little-endian float64, for what is NaN, or too large for its resolution
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from roadloop_models.contract.streams import MAX_FIELDS, Field
from roadloop_models.errors import MessageError
from roadloop_models.typed import from_msgpack

FloatColumn = npt.NDArray[np.float64]
IntColumn = npt.NDArray[np.int64]

MAX_ROWS = 4096
_MAX_DECODED_BYTES = (MAX_FIELDS + 1) * (MAX_ROWS * 8 + 128)
_TIME = "t_ms"
_CONSTANT, _RAW = 0, 9
_WIDTHS: dict[int, np.dtype[np.signedinteger]] = {
    1: np.dtype("<i1"),
    2: np.dtype("<i2"),
    4: np.dtype("<i4"),
    8: np.dtype("<i8"),
}
_EXACT_INTEGER = float(1 << 52)
_ZSTD_LEVEL = 9

_Column = tuple[str, float, int, float, bytes]


@dataclass(frozen=True)
class Columns:
    """Decoded samples: `t_ms` int64 [rows] (wall time), `values` float64 [rows, fields] with NaN for 'not known'."""

    names: tuple[str, ...]
    t_ms: IntColumn
    values: FloatColumn


def encode_columns(fields: Sequence[Field], t_ms: Sequence[int], rows: Sequence[Sequence[float]]) -> bytes:
    """Encode samples; values are rounded to a multiple of their field's resolution.

    Raises MessageError where rows do not fit the fields, a value is infinite, or there are none or too many.
    """
    if not 1 <= len(rows) <= MAX_ROWS or len(t_ms) != len(rows):
        raise MessageError(
            f"a batch has 1 to {MAX_ROWS} rows, each with its time; got {len(rows)} and {len(t_ms)} times"
        )
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise MessageError(f"rows differ in length: {error}") from error
    if values.shape != (len(rows), len(fields)):
        raise MessageError(f"rows have {values.shape[1:]} values, the stream has {len(fields)} fields")
    if np.isinf(values).any():
        raise MessageError(f"field '{fields[int(np.argwhere(np.isinf(values))[0][1])].name}': infinite")
    columns = [_encode_integers(_TIME, 1.0, np.asarray(t_ms, dtype=np.int64))]
    columns += [_encode(field, values[:, index]) for index, field in enumerate(fields)]
    body = msgspec.msgpack.encode((len(rows), columns))
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).compress(body)


def decode_columns(payload: bytes) -> Columns:
    """Decode what `encode_columns` made. Raises MessageError where it is oversize, truncated or malformed."""
    try:
        size = zstandard.frame_content_size(payload)
        if not 0 <= size <= _MAX_DECODED_BYTES:
            raise MessageError(f"columns: {size} bytes when decompressed, at most {_MAX_DECODED_BYTES} are read")
        body = zstandard.ZstdDecompressor().decompress(payload, max_output_size=_MAX_DECODED_BYTES)
        count, columns = from_msgpack(body, tuple[int, list[_Column]])
    except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MessageError(f"columns: {error}") from error
    if not 1 <= count <= MAX_ROWS or not 2 <= len(columns) <= MAX_FIELDS + 1 or columns[0][0] != _TIME:
        raise MessageError(f"columns: {count} rows of {len(columns)} columns")
    t_ms = _decode_integers(columns[0], count)
    values = np.stack([_decode(column, count) for column in columns[1:]], axis=1)
    return Columns(tuple(column[0] for column in columns[1:]), t_ms, values)


def _encode(field: Field, values: FloatColumn) -> _Column:
    with np.errstate(over="ignore"):  # what overflows is sent raw
        scaled = np.rint(values / field.resolution)
    if not np.abs(scaled).max() < _EXACT_INTEGER:  # also where a value is NaN
        if np.isnan(values).all():
            return (field.name, 0.0, _CONSTANT, float("nan"), b"")
        return (field.name, 0.0, _RAW, 0.0, values.astype("<f8").tobytes())
    return _encode_integers(field.name, field.resolution, scaled.astype(np.int64))


def _encode_integers(name: str, resolution: float, values: IntColumn) -> _Column:
    deltas = np.diff(values)
    first = float(values[0])
    if not deltas.any():
        return (name, resolution, _CONSTANT, first, b"")
    reach = int(np.abs(deltas).max())
    width = next(width for width in _WIDTHS if reach < 1 << (8 * width - 1))
    return (name, resolution, width, first, deltas.astype(_WIDTHS[width]).tobytes())


def _decode(column: _Column, count: int) -> FloatColumn:
    name, resolution, kind, first, data = column
    if kind == _RAW:
        if len(data) != 8 * count:
            raise MessageError(f"columns: '{name}' has {len(data)} bytes for {count} rows")
        return np.frombuffer(data, dtype="<f8").astype(np.float64)
    if kind == _CONSTANT:
        return np.full(count, first * resolution if resolution else first, dtype=np.float64)
    return np.asarray(_decode_integers(column, count) * resolution, dtype=np.float64)


def _decode_integers(column: _Column, count: int) -> IntColumn:
    name, _, kind, first, data = column
    if not np.isfinite(first) or abs(first) > 2 * _EXACT_INTEGER:
        raise MessageError(f"columns: '{name}' starts at {first}")
    if kind == _CONSTANT:
        return np.full(count, int(first), dtype=np.int64)
    if kind not in _WIDTHS or len(data) != kind * (count - 1):
        raise MessageError(f"columns: '{name}' of kind {kind} has {len(data)} bytes for {count} rows")
    deltas = np.frombuffer(data, dtype=_WIDTHS[kind]).astype(np.int64)
    return np.concatenate(([int(first)], int(first) + np.cumsum(deltas)))
