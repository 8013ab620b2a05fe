"""From samples as drive sends them to sealed batches, and from missing numbers to declared gaps. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from roadloop_agent.ipc import Samples
from roadloop_agent.link.value import NOTHING_KNOWN, Appraiser, Worth
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import encode_columns
from roadloop_models.contract.messages import BlobItem, TelemetryBatch
from roadloop_models.contract.streams import STREAMS
from roadloop_models.errors import MessageError

StreamKey = tuple[int, str]
"""(boot, stream)."""


@dataclass(frozen=True)
class SealedBatch:
    """Consecutive samples of one stream, encoded for `up/t/{stream}`."""

    boot: int
    stream: str
    first_seq: int
    last_seq: int
    payload: bytes
    worth: Worth = NOTHING_KNOWN


@dataclass(frozen=True)
class Gap:
    """Numbers that were given to samples which will never come."""

    boot: int
    stream: str
    first_seq: int
    last_seq: int
    reason: str


Intake = SealedBatch | Gap


@dataclass(frozen=True)
class CapturedItem:
    """A captured image or clip, cut into the blocks that are sent; the spool numbers them."""

    boot: int
    item: BlobItem
    blocks: tuple[bytes, ...]
    worth: Worth = NOTHING_KNOWN


@dataclass
class _Open:
    first_seq: int
    opened_s: float
    t_ms: list[int] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)


class Batcher:
    """Collects samples by stream and seals a batch when it is full or old, or when a number is missing."""

    def __init__(
        self, batch_samples: int, batch_age_s: float, known: Mapping[StreamKey, int], appraiser: Appraiser
    ) -> None:
        """`known` is the last number of every stream that an earlier link accounted for."""
        self._appraiser = appraiser
        self._batch_samples = batch_samples
        self._batch_age_s = batch_age_s
        self._last: dict[StreamKey, int] = dict(known)
        self._met: set[StreamKey] = set()
        self._open: dict[StreamKey, _Open] = {}

    def add(self, samples: Samples, now_s: float) -> list[Intake]:
        """Take samples. What was seen before is left out; what is missing before them becomes a gap.

        Raises MessageError where the stream is unknown or the rows do not fit it.
        """
        if samples.stream not in STREAMS:
            raise MessageError(f"samples of '{samples.stream}': no such stream")
        if len(samples.t_ms) != len(samples.rows):
            raise MessageError(f"samples of '{samples.stream}': {len(samples.rows)} rows, {len(samples.t_ms)} times")
        key = (samples.boot, samples.stream)
        out = self._account(key, samples.first_seq - 1)
        skip = self._last[key] + 1 - samples.first_seq
        t_ms, rows = samples.t_ms[skip:], samples.rows[skip:]
        while rows:
            batch = self._open.setdefault(key, _Open(self._last[key] + 1, now_s))
            room = self._batch_samples - len(batch.rows)
            batch.t_ms += t_ms[:room]
            batch.rows += rows[:room]
            self._last[key] += len(rows[:room])
            t_ms, rows = t_ms[room:], rows[room:]
            if len(batch.rows) >= self._batch_samples:
                out.append(self._seal(key))
        return out

    def captured(
        self, boot: int, item: BlobItem, blocks: tuple[bytes, ...], about_row: Sequence[float]
    ) -> CapturedItem:
        """A captured item is worth what the decision is worth that it is about."""
        return CapturedItem(boot, item, blocks, self._appraiser.item(item.about_stream, about_row))

    def produced(self, boot: int, last_seq: Mapping[str, int]) -> list[Intake]:
        """Drive has given numbers up to these: what has not come by now will not."""
        return [intake for stream, last in last_seq.items() for intake in self._account((boot, stream), last)]

    def due(self, now_s: float) -> list[Intake]:
        """Seal what is old enough."""
        old = [key for key, batch in self._open.items() if now_s - batch.opened_s >= self._batch_age_s]
        return [self._seal(key) for key in old]

    def seal_all(self) -> list[Intake]:
        """Seal everything: link stops, or drive has ended."""
        return [self._seal(key) for key in list(self._open)]

    def _account(self, key: StreamKey, upto: int) -> list[Intake]:
        """Declare what is missing up to that number. The first gap of a stream is this link's own late start."""
        last = self._last.setdefault(key, 0)
        reason = "pipe-full" if key in self._met else "link-restart"
        self._met.add(key)
        if upto <= last:
            return []
        self._last[key] = upto
        gap = Gap(key[0], key[1], last + 1, upto, reason)
        return [self._seal(key), gap] if key in self._open else [gap]

    def _seal(self, key: StreamKey) -> Intake:
        batch = self._open.pop(key)
        boot, stream = key
        last_seq = batch.first_seq + len(batch.rows) - 1
        try:
            columns = encode_columns(STREAMS[stream].fields, batch.t_ms, batch.rows)
        except MessageError:
            # Rows that do not fit their stream are a bug of drive: their numbers are accounted for, link goes on.
            return Gap(boot, stream, batch.first_seq, last_seq, "not-encodable")
        message = TelemetryBatch(boot=boot, first_seq=batch.first_seq, last_seq=last_seq, columns=columns)
        payload, worth = encode(channels.TELEMETRY, message), self._appraiser.batch(stream, batch.rows)
        return SealedBatch(boot, stream, batch.first_seq, last_seq, payload, worth)
