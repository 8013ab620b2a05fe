"""Captured frames: encoded and sent by a thread of their own, so that no slot waits for a PNG."""

import hashlib
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from roadloop_agent.drive.decide import ByteBudget
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.post import About, Post
from roadloop_models.campaigns.campaign import MAX_ITEM_BYTES
from roadloop_models.errors import RoadloopError
from roadloop_models.preprocess import ImageArray

_LOG = logging.getLogger(__name__)
_QUEUED = 32
_WAIT_S = 0.5
_MEDIA_TYPE = "image/png"


@dataclass(frozen=True)
class Shot:
    """A frame to be sent, and the sample that it belongs to."""

    slot: str
    task: str
    frame: Frame
    about_stream: str
    about_seq: int
    about_row: list[float]


class CaptureRoll:
    """A short queue between the slots and the encoder, and the byte budget of each slot."""

    def __init__(
        self, boot: int, outbox: Outbox, budgets: Mapping[str, int], encode: Callable[[ImageArray], bytes]
    ) -> None:
        """`budgets`: slot -> bytes a second; `encode` makes the file of an image."""
        self.post = Post(boot, outbox)
        self._outbox = outbox
        self._encode = encode
        self._budgets = {slot: ByteBudget(bytes_per_s) for slot, bytes_per_s in budgets.items()}
        self._shots: queue.Queue[Shot] = queue.Queue(_QUEUED)
        self._lock = threading.Lock()

    def has_room(self, slot: str, now_s: float) -> bool:
        """Whether another frame of this slot would be sent."""
        with self._lock:
            return not self._shots.full() and self._budgets[slot].allows(now_s)

    def add(self, shot: Shot) -> None:
        """Send this frame, about that sample."""
        try:
            self._shots.put_nowait(shot)
        except queue.Full:
            self._outbox.dropped_items += 1

    def run(self, stop: threading.Event, beat: Callable[[], None]) -> None:
        """The encoder's thread: until `stop`, and until the queue is empty."""
        while True:
            beat()
            try:
                shot = self._shots.get(timeout=_WAIT_S)
            except queue.Empty:
                if stop.is_set():
                    return
                continue
            try:
                self._send(shot)
            except RoadloopError as error:
                _LOG.error("slot %s: %s", shot.slot, error)

    def _send(self, shot: Shot) -> None:
        content = self._encode(shot.frame.data)
        with self._lock:
            self._budgets[shot.slot].spend(len(content))
        if len(content) > MAX_ITEM_BYTES:
            _LOG.error("slot %s: a captured frame of %d bytes is not sent", shot.slot, len(content))
            return
        sha256 = hashlib.sha256(content).hexdigest()
        if self.post.was_sent(sha256):
            return
        about = About(shot.task, shot.about_stream, shot.about_seq, shot.about_row, shot.frame.t_ms)
        self.post.offer(content, sha256, _MEDIA_TYPE, about)
