"""One sketch per slot, release and signal; once in a period all of them go to the spool. No I/O but a release's bins.

What is open is remembered with the cache once a minute: a link that is killed loses the minute since, a power cut at
most the open period. A sketch that was given to the spool is never given to it again: whether it was can be seen from
the spool's own numbers.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from roadloop_agent.ipc import Observed
from roadloop_agent.link.batcher import Intake, SealedBatch, StreamKey
from roadloop_agent.link.value import NEUTRAL, Worth
from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import SKETCH_STREAM, ReleaseRef, SignalSketch, Sketch
from roadloop_models.errors import MessageError, RoadloopError
from roadloop_models.sketches.reference import Reference
from roadloop_models.sketches.signals import SIGNALS
from roadloop_models.sketches.sketch import ValueSketch

_LOG = logging.getLogger(__name__)
WORTH = Worth(2.0 + NEUTRAL**3, highlight=True)
"""Like summaries: metered links send it too, and it goes last where there is no room."""
_MAX_PAGES = 64
"""Slots times releases that one period may have."""

FindReference = Callable[[str], Reference | None]
"""From the folder of a bundle. Raises RoadloopError where it is damaged."""


class StoredPage(msgspec.Struct):
    """What is open for one slot and release."""

    slot: str
    ref: ReleaseRef
    bundle_dir: str
    from_ms: int
    to_ms: int
    decisions: int
    signals: list[SignalSketch]


class SketchMemory(msgspec.Struct):
    """What is open, and how far the spool's numbers were when it was remembered."""

    age_s: float = 0.0
    sealed: dict[int, int] = {}
    """Boot -> last number in the stream of sketches."""
    pages: list[StoredPage] = []


@dataclass
class _Page:
    slot: str
    ref: ReleaseRef
    bundle_dir: str
    sketches: list[ValueSketch]
    from_ms: int
    to_ms: int
    decisions: int = 0


class SketchBook:
    """Owned by the thread that reads drive's messages."""

    def __init__(
        self,
        *,
        period_s: float,
        known: Mapping[StreamKey, int],
        memory: SketchMemory,
        reference: FindReference,
        now_s: float,
    ) -> None:
        """`known`: the last number of every stream that the spool has accounted for."""
        self._period_s = period_s
        self._reference = reference
        self._sealed = {boot: last for (boot, stream), last in known.items() if stream == SKETCH_STREAM}
        self._boot: int | None = None
        self._pages: dict[tuple[str, str], _Page] = {}
        self._opened_s = now_s
        if any(last > memory.sealed.get(boot, 0) for boot, last in self._sealed.items()):
            return  # it was given to the spool after it was remembered
        self._opened_s = now_s - memory.age_s
        for stored in memory.pages:
            self._restore(stored)

    def add(self, observed: Observed) -> None:
        """Take the signals of some decisions. Raises MessageError where they do not fit the task."""
        signals = SIGNALS.get(observed.ref.task, ())
        if any(len(row) != len(signals) for row in observed.rows):
            raise MessageError(f"slot '{observed.slot}': its signals are not those of {observed.ref.task}")
        self._boot = observed.boot
        key = (observed.slot, observed.ref.manifest_sha256)
        page = self._pages.get(key)
        if page is None:
            if len(self._pages) >= _MAX_PAGES:
                return
            page = self._pages[key] = self._open(
                observed.slot, observed.ref, observed.bundle_dir, observed.from_ms, observed.to_ms
            )
        page.from_ms, page.to_ms = min(page.from_ms, observed.from_ms), max(page.to_ms, observed.to_ms)
        page.decisions += len(observed.rows)
        for sketch, column in zip(page.sketches, zip(*observed.rows, strict=True), strict=True):
            sketch.add(column)

    def due(self, now_s: float) -> list[Intake]:
        """All that is open, sealed, where the period has passed; numbered in the boot of the last drive heard."""
        if now_s - self._opened_s < self._period_s or self._boot is None:
            return []
        self._opened_s = now_s
        pages, self._pages = list(self._pages.values()), {}
        return [self._seal(page, self._boot) for page in pages]

    def memory(self, now_s: float) -> SketchMemory:
        """What a next link goes on from."""
        pages = [
            StoredPage(
                page.slot,
                page.ref,
                page.bundle_dir,
                page.from_ms,
                page.to_ms,
                page.decisions,
                [sketch.message() for sketch in page.sketches],
            )
            for page in self._pages.values()
        ]
        return SketchMemory(max(now_s - self._opened_s, 0.0), dict(self._sealed), pages)

    def _open(self, slot: str, ref: ReleaseRef, bundle_dir: str, from_ms: int, to_ms: int) -> _Page:
        try:
            reference = self._reference(bundle_dir)
        except RoadloopError as error:
            _LOG.error("slot %s: no bins: %s", slot, error)
            reference = None
        known = {} if reference is None else reference.signals
        sketches = [
            ValueSketch(signal.name, known[signal.name].edges if signal.name in known else ())
            for signal in SIGNALS[ref.task]
        ]
        return _Page(slot, ref, bundle_dir, sketches, from_ms, to_ms)

    def _restore(self, stored: StoredPage) -> None:
        if stored.ref.task not in SIGNALS:
            return
        page = self._open(stored.slot, stored.ref, stored.bundle_dir, stored.from_ms, stored.to_ms)
        by_name = {sketch.name: sketch for sketch in page.sketches}
        try:
            for sent in stored.signals:
                by_name[sent.name].merge(sent)
        except (MessageError, KeyError) as error:
            _LOG.warning("slot %s: what was sketched before is left out: %s", stored.slot, error)
            return
        page.decisions = stored.decisions
        self._pages[stored.slot, stored.ref.manifest_sha256] = page

    def _seal(self, page: _Page, boot: int) -> SealedBatch:
        seq = self._sealed.get(boot, 0) + 1
        self._sealed[boot] = seq
        message = Sketch(
            boot=boot,
            seq=seq,
            slot=page.slot,
            ref=page.ref,
            from_ms=page.from_ms,
            to_ms=page.to_ms,
            decisions=page.decisions,
            signals=tuple(sketch.message() for sketch in page.sketches),
        )
        return SealedBatch(boot, SKETCH_STREAM, seq, seq, encode(channels.SKETCH, message), WORTH)
