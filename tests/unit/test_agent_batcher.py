"""Sealing batches and noticing gaps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.ipc import Samples
from roadloop_agent.link.batcher import Batcher, Gap, Intake, SealedBatch
from roadloop_agent.link.value import Appraiser, Memory
from roadloop_models.contract import channels
from roadloop_models.contract.codec import decode
from roadloop_models.contract.columns import decode_columns
from roadloop_models.contract.messages import TelemetryBatch
from roadloop_models.contract.streams import HEALTH
from roadloop_models.errors import MessageError

STREAM = HEALTH.name
WIDTH = len(HEALTH.fields)


def samples(first: int, last: int, boot: int = 1) -> Samples:
    count = last - first + 1
    rows = [[float(first + index)] * WIDTH for index in range(count)]
    return Samples(boot=boot, stream=STREAM, first_seq=first, t_ms=[1000 + first + i for i in range(count)], rows=rows)


def spans(intake: list[Intake]) -> list[tuple[str, int, int]]:
    return [(entry.reason if isinstance(entry, Gap) else "batch", entry.first_seq, entry.last_seq) for entry in intake]


def test_a_full_batch_is_sealed_and_carries_its_rows() -> None:
    batcher = Batcher(4, 5.0, {}, Appraiser(Memory(), 0.1))
    assert batcher.add(samples(1, 3), 0.0) == []
    (batch,) = batcher.add(samples(4, 5), 0.0)
    assert isinstance(batch, SealedBatch)
    message = decode(channels.TELEMETRY, batch.payload, TelemetryBatch)
    assert (message.boot, message.first_seq, message.last_seq) == (1, 1, 4)
    columns = decode_columns(message.columns)
    assert columns.values[:, 0].tolist() == [1, 2, 3, 4]
    assert columns.t_ms.tolist() == [1001, 1002, 1003, 1004]


def test_an_old_batch_is_sealed_though_not_full() -> None:
    batcher = Batcher(100, 5.0, {}, Appraiser(Memory(), 0.1))
    batcher.add(samples(1, 3), 10.0)
    assert batcher.due(14.9) == []
    assert spans(batcher.due(15.0)) == [("batch", 1, 3)]
    assert batcher.due(100.0) == []


def test_a_gap_ends_the_batch_and_is_declared() -> None:
    batcher = Batcher(100, 5.0, {}, Appraiser(Memory(), 0.1))
    batcher.add(samples(1, 3), 0.0)
    assert spans(batcher.add(samples(6, 7), 0.0)) == [("batch", 1, 3), ("pipe-full", 4, 5)]
    assert spans(batcher.seal_all()) == [("batch", 6, 7)]


def test_the_first_gap_after_a_start_is_the_restart_of_link() -> None:
    batcher = Batcher(100, 5.0, {(1, STREAM): 10}, Appraiser(Memory(), 0.1))
    assert spans(batcher.add(samples(15, 16), 0.0)) == [("link-restart", 11, 14)]
    assert spans(batcher.add(samples(18, 18), 0.0)) == [("batch", 15, 16), ("pipe-full", 17, 17)]


def test_what_was_dropped_at_the_end_of_a_stream_is_declared() -> None:
    batcher = Batcher(100, 5.0, {}, Appraiser(Memory(), 0.1))
    batcher.add(samples(1, 3), 0.0)
    assert batcher.produced(1, {STREAM: 3}) == []
    assert spans(batcher.produced(1, {STREAM: 5})) == [("batch", 1, 3), ("pipe-full", 4, 5)]


def test_another_boot_is_another_sequence() -> None:
    batcher = Batcher(100, 5.0, {}, Appraiser(Memory(), 0.1))
    batcher.add(samples(1, 3), 0.0)
    assert batcher.add(samples(1, 2, boot=2), 0.0) == []
    assert [(entry.boot, entry.first_seq, entry.last_seq) for entry in batcher.seal_all()] == [(1, 1, 3), (2, 1, 2)]


def test_what_was_seen_is_left_out() -> None:
    batcher = Batcher(100, 5.0, {(1, STREAM): 4}, Appraiser(Memory(), 0.1))
    assert batcher.add(samples(2, 6), 0.0) == []
    assert spans(batcher.seal_all()) == [("batch", 5, 6)]


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (Samples(boot=1, stream="nowhere", first_seq=1, t_ms=[1], rows=[[1.0]]), "no such stream"),
        (Samples(boot=1, stream=STREAM, first_seq=1, t_ms=[1, 2], rows=[[1.0] * WIDTH]), "1 rows, 2 times"),
    ],
)
def test_samples_that_do_not_fit_are_refused(broken: Samples, says: str) -> None:
    with pytest.raises(MessageError, match=says):
        Batcher(100, 5.0, {}, Appraiser(Memory(), 0.1)).add(broken, 0.0)


def test_rows_that_cannot_be_encoded_are_declared_and_do_not_stop_the_stream() -> None:
    batcher = Batcher(2, 5.0, {}, Appraiser(Memory(), 0.1))
    broken = Samples(boot=1, stream=STREAM, first_seq=1, t_ms=[1, 2], rows=[[math.inf] * WIDTH, [1.0] * WIDTH])
    assert spans(batcher.add(broken, 0.0)) == [("not-encodable", 1, 2)]
    assert spans(batcher.add(samples(3, 4), 0.0)) == [("batch", 3, 4)]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.floats(0, 3)), max_size=25),
    st.integers(1, 7),
)
def test_every_number_is_in_one_batch_or_one_gap(chunks: list[tuple[int, bool, float]], batch_samples: int) -> None:
    batcher, out, last, now_s = Batcher(batch_samples, 5.0, {}, Appraiser(Memory(), 0.1)), [], 0, 0.0
    for count, dropped, wait_s in chunks:
        now_s += wait_s
        if not dropped:
            out += batcher.add(samples(last + 1, last + count), now_s)
        last += count
        out += batcher.due(now_s)
    out += batcher.produced(1, {STREAM: last}) + batcher.seal_all()
    numbers = [seq for entry in out for seq in range(entry.first_seq, entry.last_seq + 1)]
    assert sorted(numbers) == list(range(1, last + 1))
    assert all(entry.last_seq - entry.first_seq < batch_samples for entry in out if isinstance(entry, SealedBatch))
