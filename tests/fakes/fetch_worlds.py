"""A vehicle's fetcher and the other side that it talks to, over each transport, with the faults that tests need."""

import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path

from roadloop_agent.update.fetch import INBOX_BLOCKS, BlockFetcher
from roadloop_agent.update.https import HttpsFetcher, connector
from roadloop_agent.update.resume import ResumingFetcher
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import FetchRequest
from tests.fakes.proxy import Proxy
from tests.fakes.repository import answer
from tests.fakes.served_files import ServedFiles
from tests.fakes.staged_vehicle import Quiet

GIVE_UP_S = 2.0


class World(ABC):
    """Path -> content in `files`; `sizes` lies about a size. Used as a context."""

    files: dict[str, bytes]
    sizes: dict[str, int]

    @abstractmethod
    def fetcher(self) -> ResumingFetcher:
        """A new one, as after a start of the agent."""

    @abstractmethod
    def cut_after(self, size_bytes: int) -> None:
        """Bring so many bytes of files, more or less, and then nothing until `mend`."""

    @abstractmethod
    def mend(self) -> None:
        """The link is back."""

    @abstractmethod
    def slow(self) -> None:
        """Bring so little that it never ends."""

    @abstractmethod
    def received_bytes(self) -> int:
        """How much of files came, with what the transport adds."""

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class MqttWorld(World):
    """Blocks from memory, in the thread that asks."""

    def __init__(self) -> None:
        self.files = {}
        self.sizes = {}
        self._left: float = float("inf")
        self._received = 0
        self._inbox = Quiet(INBOX_BLOCKS)

    def fetcher(self) -> ResumingFetcher:
        self._inbox = Quiet(INBOX_BLOCKS)
        self._fetcher = BlockFetcher(self._send, lambda: self._inbox.now_s, inbox=self._inbox)
        return self._fetcher

    def cut_after(self, size_bytes: int) -> None:
        self._left = size_bytes // BLOCK_BYTES

    def mend(self) -> None:
        self._left = float("inf")

    def slow(self) -> None:
        self._left = 0

    def received_bytes(self) -> int:
        return self._received

    def _send(self, request: FetchRequest) -> None:
        for sha256, n, block in answer(self.files.get(request.path), request):
            if self._left <= 0:
                return
            self._left -= 1
            self._received += len(block.data)
            size_bytes = self.sizes.get(request.path, block.size_bytes)
            sized = type(block)(
                path=block.path, size_bytes=size_bytes, crc32=block.crc32, data=block.data, missing=block.missing
            )
            self._fetcher.deliver(sha256, n, sized)


class HttpsWorld(World):
    """The production file server behind TLS and a link that can be cut."""

    def __init__(self, directory: Path) -> None:
        self._served = ServedFiles(directory / "server")
        self.files = self._served.files.contents
        self.sizes = self._served.files.sizes

    def __enter__(self) -> "World":
        self._served.__enter__()
        self.proxy = Proxy(self._served.port)
        return self

    def __exit__(self, *_: object) -> None:
        self.proxy.__exit__()
        self._served.__exit__()

    def fetcher(self) -> ResumingFetcher:
        tls = self._served.client_tls("van-1")
        connect = connector(f"https://127.0.0.1:{self.proxy.port}", tls)
        return HttpsFetcher(
            connect, time.monotonic, threading.Event().wait, timeout_s=1.0, give_up_s=GIVE_UP_S, attempts=2
        )

    def cut_after(self, size_bytes: int) -> None:
        self.proxy.cut_at(self.proxy.received_bytes + size_bytes)
        self.proxy.refuse_after_cut = True

    def mend(self) -> None:
        self.proxy.cut_at()
        self.proxy.refusing = self.proxy.refuse_after_cut = False
        self.proxy.bytes_per_s = None

    def slow(self) -> None:
        self.proxy.bytes_per_s = 20_000.0  # records come in time, a block within GIVE_UP_S does not

    def received_bytes(self) -> int:
        return self.proxy.received_bytes
