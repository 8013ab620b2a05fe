"""Files of the image repository over MQTT blocks, in the shape that python-tuf's client asks for.

One thread downloads (the update worker); blocks are delivered from the thread that owns the connection. Targets are
resumed from what is on disk, metadata never is.
"""

import io
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError

from roadloop_agent.update.blocks import Assembler
from roadloop_agent.update.parts import PartFile, sha256_hex
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import FetchRequest, FileBlock, Policy
from roadloop_models.errors import FetchInterruptedError

METADATA_URL = "metadata/"
TARGETS_URL = "targets/"
USUAL_POLICY = Policy()
MAX_METADATA_BYTES = 512 * 1024
_TARGET = re.compile(r"^targets/(?:.*/)?([0-9a-f]{64})\.[^/]+$")
INBOX_BLOCKS = 256
_LOOK_S = 0.5
_ROUNDS = 2
"""How often a target is fetched whose content turns out wrong."""

Inbox: TypeAlias = queue.Queue[tuple[str, int, FileBlock]]


@dataclass(frozen=True)
class FetchContext:
    """What a download belongs to: where its parts lie, who may end it, who hears of each block, the policy."""

    parts: Path
    cancelled: Callable[[], bool] = lambda: False
    arrived: Callable[[str], None] = lambda path: None
    policy: Policy = USUAL_POLICY

    @property
    def slow_s(self) -> float:
        """How long three blocks take at the pace of the policy: silence below that means nothing."""
        return 3 * BLOCK_BYTES / self.policy.fetch_bytes_per_s if self.policy.fetch_bytes_per_s else 0.0


class BlockFetcher:
    """See the module. What python-tuf's client wants of a fetcher it has without inheriting it: see trust.py.

    `send` publishes a request, and may raise RetryLaterError where there is no connection."""

    def __init__(
        self,
        send: Callable[[FetchRequest], None],
        mono: Callable[[], float],
        *,
        timeout_s: float = 4.0,
        give_up_s: float = 60.0,
        window_blocks: int = 32,
        inbox: Inbox | None = None,
    ) -> None:
        self._send = send
        self._mono = mono
        self._timeout_s = timeout_s
        self._give_up_s = give_up_s
        self._window_blocks = window_blocks
        self._inbox: Inbox = inbox or queue.Queue(INBOX_BLOCKS)
        self._reconnected = threading.Event()
        self._path: str | None = None
        self._context: FetchContext | None = None

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

    @contextmanager
    def context(self, context: FetchContext) -> Iterator[None]:
        """What the downloads within belong to."""
        self._context = context
        try:
            yield
        finally:
            self._context = None

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file of at most `max_length` and MAX_METADATA_BYTES bytes.

        Raises what Assembler.accept and Assembler.request raise.
        """
        limit = min(max_length, MAX_METADATA_BYTES)
        assembler = self._assembler(url, max_bytes=limit)
        blocks: dict[int, bytes] = {}
        sha256 = None
        for n, data in self._blocks(assembler):
            if sha256 != assembler.sha256:
                sha256 = assembler.sha256
                blocks.clear()
            blocks[n] = data
        content = b"".join(blocks[n] for n in sorted(blocks))
        if sha256_hex(content) != sha256:
            raise LengthOrHashMismatchError(f"{url}: its content is not what its topic says")
        return content

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[BinaryIO]:
        """A target of exactly `max_length` bytes, resumed from its part; metadata as `download_bytes` has it.

        Raises LengthOrHashMismatchError where the content is wrong and wrong again when fetched anew, DiskFullError.
        """
        match = _TARGET.match(url)
        if match is None:
            yield io.BytesIO(self.download_bytes(url, max_length))
            return
        part = self._target(url, match.group(1), max_length)
        try:
            with part.open() as file:
                yield file
        except RepositoryError:
            part.discard()
            raise
        part.discard()

    def _target(self, url: str, sha256: str, size_bytes: int) -> PartFile:
        assert self._context is not None
        problem = LengthOrHashMismatchError(f"{url}: its content does not have the signed hash")
        for _ in range(_ROUNDS):
            part = PartFile(self._context.parts, sha256, size_bytes)
            assembler = self._assembler(
                url, sha256=sha256, size_bytes=size_bytes, max_bytes=size_bytes, have=frozenset(part.have)
            )
            for _ in part.have:
                self._context.arrived(url)
            try:
                for n, data in self._blocks(assembler):
                    part.write(n, data)
                    self._context.arrived(url)
                if part.is_sound():
                    return part
            except LengthOrHashMismatchError as error:
                problem = error
            part.discard()
        raise problem

    def _assembler(
        self,
        path: str,
        *,
        max_bytes: int,
        sha256: str | None = None,
        size_bytes: int | None = None,
        have: frozenset[int] = frozenset(),
    ) -> Assembler:
        slow_s = 0.0 if self._context is None else self._context.slow_s
        return Assembler(
            path,
            now_s=self._mono(),
            sha256=sha256,
            size_bytes=size_bytes,
            max_bytes=max_bytes,
            have=have,
            window_blocks=self._window_blocks,
            timeout_s=max(self._timeout_s, slow_s),
            give_up_s=max(self._give_up_s, 3 * slow_s),
        )

    def _blocks(self, assembler: Assembler) -> Iterator[tuple[int, bytes]]:
        """New blocks as they come, until the file is complete."""
        self._drain()
        self._path = assembler.path
        try:
            while not assembler.done:
                if self._context is not None and self._context.cancelled():
                    raise FetchInterruptedError(f"{assembler.path}: given up for something newer")
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
