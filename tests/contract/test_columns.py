"""The telemetry codec: exact to its resolution, small on the wire, and safe to feed with anything."""

import math

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.contract.channels import TELEMETRY
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import MAX_ROWS, decode_columns, encode_columns
from roadloop_models.contract.messages import TelemetryBatch
from roadloop_models.contract.streams import MAX_FIELDS, STREAMS, Field
from roadloop_models.errors import MessageError

RESOLUTIONS = (1.0, 0.1, 0.01, 0.001)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Field], list[int], list[list[float]]]:
    width = draw(st.integers(1, MAX_FIELDS))
    fields = [Field(f"f{index}", draw(st.sampled_from(RESOLUTIONS))) for index in range(width)]
    value = st.one_of(
        st.floats(-1e4, 1e4), st.just(math.nan), st.just(0.0), st.floats(allow_infinity=False, allow_nan=False)
    )
    rows = draw(st.lists(st.lists(value, min_size=width, max_size=width), min_size=1, max_size=20))
    t_ms = [draw(st.integers(0, 1 << 45)) for _ in rows]
    return fields, t_ms, rows


@given(batches())
def test_values_come_back_within_half_a_resolution(batch: tuple[list[Field], list[int], list[list[float]]]) -> None:
    fields, t_ms, rows = batch
    decoded = decode_columns(encode_columns(fields, t_ms, rows))
    assert decoded.names == tuple(field.name for field in fields)
    assert decoded.t_ms.tolist() == t_ms
    wanted = np.array(rows)
    assert (np.isnan(decoded.values) == np.isnan(wanted)).all()
    allowed = 0.5 * np.array([field.resolution for field in fields]) * (1 + 1e-9) + np.abs(wanted) * 1e-12
    assert (np.isnan(wanted) | (np.abs(decoded.values - wanted) <= allowed)).all()


@given(batches(), st.data())
def test_damaged_columns_never_break_the_decoder(
    batch: tuple[list[Field], list[int], list[list[float]]], data: st.DataObject
) -> None:
    payload = bytearray(encode_columns(*batch))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(payload), bytes(payload[:position])):
        try:
            decoded = decode_columns(damaged)
        except MessageError:
            continue
        assert decoded.values.shape[0] == len(decoded.t_ms) <= MAX_ROWS


@given(st.binary(max_size=300))
def test_any_body_is_refused_or_decoded(body: bytes) -> None:
    payload = zstandard.ZstdCompressor().compress(body)
    with pytest.raises(MessageError):
        decode_columns(payload)


def test_a_decompression_bomb_is_refused_before_it_grows() -> None:
    with pytest.raises(MessageError, match="at most"):
        decode_columns(zstandard.ZstdCompressor().compress(bytes(1 << 26)))


def test_lying_row_counts_are_refused() -> None:
    def payload(count: int) -> bytes:
        columns = [("t_ms", 1.0, 0, 0.0, b""), ("a", 1.0, 1, 0.0, b"\x01")]
        return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode((count, columns)))

    assert decode_columns(payload(2)).values.ravel().tolist() == [0.0, 1.0]
    for count in (0, 1, 3, MAX_ROWS + 1, -1):
        with pytest.raises(MessageError):
            decode_columns(payload(count))


@pytest.mark.parametrize(
    ("t_ms", "rows", "says"),
    [
        ([], [], "1 to"),
        ([1], [[1.0, 2.0]], "fields"),
        ([1], [[math.inf]], "infinite"),
        ([1, 2], [[1.0]], "times"),
        ([1, 2], [[1.0], [1.0, 2.0]], "length"),
    ],
)
def test_rows_that_do_not_fit_are_refused(t_ms: list[int], rows: list[list[float]], says: str) -> None:
    with pytest.raises(MessageError, match=says):
        encode_columns([Field("a", 1.0)], t_ms, rows)


def drive_like_rows(count: int, seed: int = 7) -> list[list[float]]:
    """22 signals as a car gives them: smooth ones at 1 to 3 decimals, slow counters, and a few that never change."""
    random = np.random.default_rng(seed)
    smooth = np.cumsum(random.normal(size=(count, 12)) * 0.05, axis=0) + 20
    counters = np.cumsum(random.integers(0, 3, size=(count, 6)), axis=0)
    constants = np.tile(random.integers(0, 9, size=4), (count, 1))
    rows: list[list[float]] = np.concatenate([smooth, counters, constants], axis=1).tolist()
    return rows


def test_a_sample_of_22_fields_takes_at_most_40_bytes_on_the_wire() -> None:
    fields = [Field(f"signal_{index}", 0.01 if index < 12 else 1.0) for index in range(MAX_FIELDS)]
    columns = encode_columns(fields, list(range(0, 10_000, 100)), drive_like_rows(100))
    payload = encode(TELEMETRY, TelemetryBatch(boot=1, first_seq=1, last_seq=100, columns=columns))
    topic = TELEMETRY.topic("van-1", stream="signals")
    assert (len(payload) + len(topic)) / 100 <= 40


def test_known_streams_have_distinct_fields() -> None:
    for name, stream in STREAMS.items():
        assert stream.name == name
        names = [field.name for field in stream.fields]
        assert len(set(names)) == len(names) <= MAX_FIELDS
        assert all(field.resolution > 0 for field in stream.fields)
