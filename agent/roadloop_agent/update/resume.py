"""What every fetcher has in common: the shape that python-tuf's client asks for, and targets that resume from disk.

Targets are resumed from what is on disk, metadata never is. Every transport fills the same part, so that one goes on
where another was given up.
"""

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError

from roadloop_agent.update.parts import PartFile
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import Policy
from roadloop_models.errors import FetchInterruptedError

USUAL_POLICY = Policy()
_TARGET = re.compile(r"^targets/(?:.*/)?([0-9a-f]{64})\.[^/]+$")
_ROUNDS = 2
"""How often a target is fetched whose content turns out wrong."""


@dataclass(frozen=True)
class FetchContext:
    """What a download belongs to: where its parts lie, who may end it, who hears of each block, the policy."""

    parts: Path
    cancelled: Callable[[], bool] = lambda: False
    arrived: Callable[[str], None] = lambda path: None
    policy: Policy = USUAL_POLICY
    allowed: Callable[[], None] = lambda: None
    """Raises RetryLaterError where the present link may not be used."""

    @property
    def slow_s(self) -> float:
        """How long three blocks take at the pace of the policy: silence below that means nothing."""
        return 3 * BLOCK_BYTES / self.policy.fetch_bytes_per_s if self.policy.fetch_bytes_per_s else 0.0

    def check(self, path: str) -> None:
        """Raises FetchInterruptedError where nobody wants it any more, and what `allowed` raises."""
        if self.cancelled():
            raise FetchInterruptedError(f"{path}: given up for something newer")
        self.allowed()


class ResumingFetcher(ABC):
    """See the module. What python-tuf's client wants of a fetcher it has without inheriting it: see trust.py.

    Owned by the thread that downloads.
    """

    _context: FetchContext | None = None

    @contextmanager
    def context(self, context: FetchContext) -> Iterator[None]:
        """What the downloads within belong to."""
        self._context = context
        try:
            yield
        finally:
            self._context = None

    @abstractmethod
    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file of at most `max_length` and MAX_METADATA_BYTES bytes.

        Raises DownloadHTTPError(404) where there is none, DownloadLengthMismatchError where it is larger,
        LengthOrHashMismatchError where its content contradicts itself, RetryLaterError.
        """

    @abstractmethod
    def fill(self, url: str, part: PartFile, context: FetchContext) -> None:
        """Fetch what is missing of a target, and say of each block that it arrived. Raises as `download_bytes`.

        What arrived before an error stays in `part`.
        """

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
        context = self._context
        assert context is not None, "a target has a place where its parts lie"
        problem = LengthOrHashMismatchError(f"{url}: its content does not have the signed hash")
        for _ in range(_ROUNDS):
            part = PartFile(context.parts, sha256, size_bytes)
            for _ in part.have:
                context.arrived(url)
            try:
                self.fill(url, part, context)
                if part.is_sound():
                    return part
            except LengthOrHashMismatchError as error:
                problem = error
            part.discard()
        raise problem
