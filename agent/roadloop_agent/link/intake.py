"""Reads drive's messages: samples and captured items go to the spool, the rest to whoever it is for."""

import hashlib
import logging
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from roadloop_agent.ipc import (
    Attach,
    Captured,
    FromDrive,
    Hello,
    Observed,
    Pipe,
    Produced,
    Samples,
    SlotHealth,
    encode_ipc,
)
from roadloop_agent.link import waiting
from roadloop_agent.link.batcher import Batcher, CapturedItem, Intake, StreamKey
from roadloop_agent.link.sketches import SketchBook
from roadloop_models.contract.messages import BlobItem
from roadloop_models.errors import DiskFullError, MessageError

_LOG = logging.getLogger(__name__)
_MESSAGES_AT_ONCE = 256
_WAIT_S = 0.25
_QUIET_S = 0.3
"""When link stops: how long nothing may come from drive before the pipe counts as empty."""
_WAITING_BYTES = 8 << 20
"""Batches kept in memory while the disk is full; then the least valuable is given up and declared."""
_DISK_RETRY_S = 1.0
_ATTACH_S = 2.0
_REMEMBER_S = 60.0


class Sink(Protocol):
    """The part of the spool that the intake writes."""

    def known(self) -> dict[StreamKey, int]:
        """The last number accounted for in each stream."""

    def append(self, waiting: deque[Intake], now_s: float) -> None:
        """Store batches and gaps and take them out of `waiting`. Raises DiskFullError."""

    def append_items(self, waiting: deque[CapturedItem], now_s: float) -> None:
        """Store captured items and take them out of `waiting`. Raises DiskFullError."""


class PipeReader:
    """Owns link's end of the pipe for reading."""

    def __init__(
        self,
        *,
        pipe: Pipe,
        sink: Sink,
        batcher: Batcher,
        book: SketchBook,
        dispatch: Callable[[FromDrive], None],
        stored: Callable[[], None],
        remember: Callable[[], None],
        clock: Callable[[], float],
        beat: Callable[[], None],
    ) -> None:
        """`dispatch` gets every message that is not telemetry; `stored` is called when the spool has more.

        `remember` is called now and then, to keep what was learnt of the telemetry's value.
        """
        self._pipe = pipe
        self._sink = sink
        self._batcher = batcher
        self._book = book
        self._dispatch = dispatch
        self._stored = stored
        self._remember = remember
        self._remember_s = clock() + _REMEMBER_S
        self._clock = clock
        self._beat = beat
        self._waiting: deque[Intake] = deque()
        self._retry_s = 0.0
        self._blocks: list[bytes] = []
        self._items: deque[CapturedItem] = deque()
        self._attached = False
        self._attach_s = 0.0
        self.malformed = 0

    def run(self, stop: threading.Event) -> None:
        """Read until `stop`, then until the pipe is quiet or drive has said its last word."""
        quiet_since_s: float | None = None
        while True:
            self._attach()
            ended, count = self._read()
            now_s = self._clock()
            self._keep(self._batcher.due(now_s))
            sketches = self._book.due(now_s)
            self._keep(sketches)
            self._store(now_s)
            self._beat()
            if sketches or now_s >= self._remember_s:
                self._remember_s = now_s + _REMEMBER_S
                self._remember()
            if not stop.is_set() or count:
                quiet_since_s = None
            elif quiet_since_s is None:
                quiet_since_s = now_s
            if stop.is_set() and (ended or (quiet_since_s is not None and now_s - quiet_since_s >= _QUIET_S)):
                break
        self._keep(self._batcher.seal_all())
        self._retry_s = 0.0
        self._store(self._clock())
        self._remember()

    def _attach(self) -> None:
        """Ask drive who it is until it answers; it may be starting, or have said so to an earlier link."""
        if not self._attached and self._clock() >= self._attach_s:
            self._attach_s = self._clock() + _ATTACH_S
            self._pipe.try_send(encode_ipc(Attach()))

    def _read(self) -> tuple[bool, int]:
        readable, _, _ = select.select([self._pipe], [], [], _WAIT_S)
        ended, count = False, 0
        while readable and count < _MESSAGES_AT_ONCE:
            try:
                message = self._pipe.receive_from_drive()
                if message is None:
                    break
                count += 1
                ended = self._take(message) or ended
            except MessageError as error:
                count += 1
                self.malformed += 1
                _LOG.error("from drive: %s", error)
        return ended, count

    def _take(self, message: FromDrive) -> bool:
        if isinstance(message, Samples):
            self._keep(self._batcher.add(message, self._clock()))
        elif isinstance(message, Observed):
            self._book.add(message)
        elif isinstance(message, Captured):
            self._take_block(message)
        elif isinstance(message, Produced):
            self._keep(self._batcher.produced(message.boot, message.last_seq))
            if message.ended:
                self._keep(self._batcher.seal_all())
                return True
        else:
            self._attached = self._attached or isinstance(message, Hello)
            if isinstance(message, SlotHealth) and not self._attached:
                return False
            self._dispatch(message)
        return False

    def _take_block(self, block: Captured) -> None:
        """Collect the blocks of one item; an item of which one is missing is given up as a whole."""
        if block.n == 0:
            self._blocks = []
        if block.n != len(self._blocks):
            self._blocks = []
            return
        self._blocks.append(block.data)
        if len(self._blocks) < block.blocks:
            return
        content, blocks = b"".join(self._blocks), self._blocks
        self._blocks = []
        if len(content) != block.size_bytes or hashlib.sha256(content).hexdigest() != block.sha256:
            raise MessageError(f"captured item {block.sha256}: its blocks are not what was announced")
        item = BlobItem(
            sha256=block.sha256,
            size_bytes=block.size_bytes,
            media_type=block.media_type,
            task=block.task,
            about_stream=block.about_stream,
            about_seq=block.about_seq,
            t_ms=block.t_ms,
            campaign=block.campaign,
        )
        self._items.append(self._batcher.captured(block.boot, item, tuple(blocks), block.about_row))

    def _keep(self, intake: list[Intake]) -> None:
        self._waiting.extend(intake)

    def _store(self, now_s: float) -> None:
        """Write what waits, in few transactions: each costs the disk a flush.

        While the disk is full, samples wait in memory, and what is too much is declared, not forgotten. Captured
        items are given up: they have no number yet, and a vehicle whose disk is full has better use for its memory.
        """
        if self._items:
            try:
                self._sink.append_items(self._items, now_s)
                self._stored()
            except DiskFullError as error:
                _LOG.error("%d captured items given up: %s", len(self._items), error)
                self._items.clear()
        if not self._waiting or now_s < self._retry_s:
            return
        try:
            self._sink.append(self._waiting, now_s)
        except DiskFullError as error:
            self._retry_s = now_s + _DISK_RETRY_S
            self._waiting = waiting.bounded(self._waiting, _WAITING_BYTES)
            _LOG.error("%s; %d batches and gaps wait in memory", error, len(self._waiting))
            return
        self._stored()
