"""Files over MQTT blocks. One thread downloads (the update worker); blocks are delivered from the thread that owns the
connection.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

from tuf.api.exceptions import LengthOrHashMismatchError

from roadloop_agent.update.blocks import Assembler
from roadloop_agent.update.parts import PartFile, sha256_hex
from roadloop_agent.update.resume import FetchContext, ResumingFetcher
from roadloop_models.contract.messages import FetchRequest, FileBlock

METADATA_URL = "metadata/"
TARGETS_URL = "targets/"
MAX_METADATA_BYTES = 512 * 1024
INBOX_BLOCKS = 256
_LOOK_S = 0.5

Inbox: TypeAlias = queue.Queue[tuple[str, int, FileBlock]]


class BlockFetcher(ResumingFetcher):
    """See the module.

    `send` publishes a request, and may raise RetryLaterError where there is no connection. `hear`: from now on this
    content shall be heard where it is sent to all vehicles that wait for it, or none (None); without it everything is
    asked for alone.
    """

    def __init__(
        self,
        send: Callable[[FetchRequest], None],
        mono: Callable[[], float],
        *,
        timeout_s: float = 4.0,
        give_up_s: float = 60.0,
        window_blocks: int = 32,
        inbox: Inbox | None = None,
        hear: Callable[[str | None], None] | None = None,
    ) -> None:
        self._send = send
        self._hear = hear
        self._mono = mono
        self._timeout_s = timeout_s
        self._give_up_s = give_up_s
        self._window_blocks = window_blocks
        self._inbox: Inbox = inbox or queue.Queue(INBOX_BLOCKS)
        self._reconnected = threading.Event()
        self._path: str | None = None

    # From the thread of the connection.

    def deliver(self, sha256: str, n: int, block: FileBlock) -> None:
        """Take a block that came on a file channel; never blocks. What nobody waits for is dropped."""
        if block.path != self._path:
            return
        try:
            self._inbox.put_nowait((sha256, n, block))
        except queue.Full:
            return  # like a block that was lost on the way: it is asked for again

    def reconnected(self) -> None:
        """The connection was lost and is back: what was under way is asked for again without waiting for silence."""
        self._reconnected.set()

    # From the thread that downloads.

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file."""
        limit = min(max_length, MAX_METADATA_BYTES)
        assembler = self._assembler(url, self._context, max_bytes=limit)
        blocks: dict[int, bytes] = {}
        sha256 = None
        for n, data in self._blocks(assembler, self._context):
            if sha256 != assembler.sha256:
                sha256 = assembler.sha256
                blocks.clear()
            blocks[n] = data
        content = b"".join(blocks[n] for n in sorted(blocks))
        if sha256_hex(content) != sha256:
            raise LengthOrHashMismatchError(f"{url}: its content is not what its topic says")
        return content

    def fill(self, url: str, part: PartFile, context: FetchContext) -> None:
        """Fetch the blocks of a target that are not here as a whole."""
        size_bytes = part.size_bytes
        assembler = self._assembler(
            url,
            context,
            sha256=part.sha256,
            size_bytes=size_bytes,
            max_bytes=size_bytes,
            have=frozenset(part.have),
            listening=self._hear is not None,
        )
        if assembler.done:
            return
        try:
            if self._hear is not None:
                self._hear(part.sha256)
            for n, data in self._blocks(assembler, context):
                part.write(n, data)
                context.arrived(url)
        finally:
            if self._hear is not None:
                self._hear(None)

    def _assembler(
        self,
        path: str,
        context: FetchContext | None,
        *,
        max_bytes: int,
        sha256: str | None = None,
        size_bytes: int | None = None,
        have: frozenset[int] = frozenset(),
        listening: bool = False,
    ) -> Assembler:
        slow_s = 0.0 if context is None else context.slow_s
        return Assembler(
            path,
            now_s=self._mono(),
            sha256=sha256,
            size_bytes=size_bytes,
            max_bytes=max_bytes,
            have=have,
            listening=listening,
            window_blocks=self._window_blocks,
            timeout_s=max(self._timeout_s, slow_s),
            give_up_s=max(self._give_up_s, 3 * slow_s),
        )

    def _blocks(self, assembler: Assembler, context: FetchContext | None) -> Iterator[tuple[int, bytes]]:
        """New blocks as they come, until the file is complete."""
        self._drain()
        self._path = assembler.path
        try:
            while not assembler.done:
                if context is not None:
                    context.check(assembler.path)
                if self._reconnected.is_set():
                    self._reconnected.clear()
                    assembler.repeat()
                request = assembler.request(self._mono())
                if request is not None:
                    self._send(request)
                try:
                    sha256, n, block = self._inbox.get(timeout=min(_LOOK_S, assembler.wait_s(self._mono())))
                except queue.Empty:
                    continue
                data = assembler.accept(sha256, n, block, self._mono())
                if data is not None:
                    yield n, data
        finally:
            self._path = None

    def _drain(self) -> None:
        while True:
            try:
                self._inbox.get_nowait()
            except queue.Empty:
                return
