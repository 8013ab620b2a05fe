"""Captured content on its way to link: cut into blocks, and the same never twice."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.ipc import Captured
from roadloop_models.contract.channels import BLOCK_BYTES

_REMEMBERED = 16_384
"""Items of which it is known that they were sent."""


@dataclass(frozen=True)
class About:
    """The sample that an item belongs to, and the campaign that wanted it, where one did."""

    task: str
    stream: str
    seq: int
    row: list[float]
    t_ms: int
    campaign: str = ""


class Post:
    """Shared by who sends items."""

    def __init__(self, boot: int, outbox: Outbox) -> None:
        self._boot = boot
        self._outbox = outbox
        self._lock = threading.Lock()
        self._sent: OrderedDict[str, None] = OrderedDict()

    def was_sent(self, sha256: str) -> bool:
        """Whether this content is on its way: a camera that stands still, a replay that begins again."""
        with self._lock:
            return sha256 in self._sent

    def offer(self, content: bytes, sha256: str, media_type: str, about: About) -> bool:
        """Send an item; False where link has no room for it now."""
        pieces = [content[start : start + BLOCK_BYTES] for start in range(0, len(content), BLOCK_BYTES)]
        offered = self._outbox.offer(
            [
                Captured(
                    boot=self._boot,
                    sha256=sha256,
                    size_bytes=len(content),
                    media_type=media_type,
                    task=about.task,
                    about_stream=about.stream,
                    about_seq=about.seq,
                    t_ms=about.t_ms,
                    about_row=about.row,
                    campaign=about.campaign,
                    n=n,
                    blocks=len(pieces),
                    data=piece,
                )
                for n, piece in enumerate(pieces)
            ]
        )
        if offered:
            with self._lock:
                self._sent[sha256] = None
                if len(self._sent) > _REMEMBERED:
                    self._sent.popitem(last=False)
        return offered
