"""The director asked in a process of its own, which fetches through this one.

What verifies signatures needs 7 MB that a vehicle which only looks for news should not keep; and whoever feeds it bad
metadata meets a process that holds nothing else. Frames on the pipes: four bytes of length, MessagePack.
"""

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import msgspec
from tuf.api.exceptions import DownloadHTTPError

from roadloop_agent.update.fetch import MAX_METADATA_BYTES
from roadloop_agent.update.glance import MISSING, Fetcher
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_agent.update.tuf_errors import tuf_errors
from roadloop_models.errors import ConfigError, DiskFullError, RetryLaterError, RoadloopError
from roadloop_models.typed import from_msgpack

if TYPE_CHECKING:
    from roadloop_agent.update.director import Director

MAX_FRAME_BYTES = MAX_METADATA_BYTES + 4096
_LENGTH_BYTES = 4
TIMEOUT_S = 600.0
"""More than all that is fetched may take, at a minute of silence each."""
_ENDED = "the process that asks the director has ended without a word"


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """What the director said the time to be in this start of the agent, if it was asked."""

    told: datetime | None


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Fetch this."""

    url: str
    max_length: int


class Content(msgspec.Struct, frozen=True, tag="content"):
    """What was asked for; None: there is no such file."""

    data: bytes | None


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    """The version of the newest assignment, verified and remembered, and what the director said the time to be."""

    version: int
    told: datetime | None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An error of the catalogue."""

    code: str
    detail: str


Said: TypeAlias = Ask | Seen | Failed


def ask_apart(command: Sequence[str], fetcher: Fetcher, time: TrustedTime, timeout_s: float = TIMEOUT_S) -> int:
    """Run `command`, which serves `answer`; the version of the newest assignment.

    Raises what Director.refresh raises, RetryLaterError also where the process ends without a word or takes too long.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        timer = threading.Timer(timeout_s, child.kill)
        timer.daemon = True
        timer.start()
        try:
            _send(child.stdin, Begin(time.heard()))
            return _serve(child.stdin, child.stdout, fetcher, time)
        finally:
            timer.cancel()
            child.kill()


def _serve(out: IO[bytes], into: IO[bytes], fetcher: Fetcher, time: TrustedTime) -> int:
    while True:
        said = _receive(into, Said)
        if isinstance(said, Seen):
            if said.told is not None:
                time.told(said.told)
            return said.version
        if isinstance(said, Failed):
            raise _error(said)
        with tuf_errors(MetadataError, time.now()):
            try:
                data = fetcher.download_bytes(said.url, said.max_length)
            except DownloadHTTPError as error:
                if error.status_code not in MISSING:
                    raise
                data = None
        _send(out, Content(data))


def answer(make: "Callable[[Fetcher, datetime | None], tuple[Director, TrustedTime]]") -> None:
    """The process: ask the director through the pipes, and say what came of it. `make` builds the client."""
    into, out = sys.stdin.buffer, sys.stdout.buffer
    begin = _receive(into, Begin)
    director, time = make(_Proxy(into, out), begin.told)
    try:
        version = director.refresh().version
    except RoadloopError as error:
        _send(out, Failed(error.code, str(error)))
        return
    _send(out, Seen(version, time.heard()))


class _Proxy:
    """A fetcher on the pipes."""

    def __init__(self, into: IO[bytes], out: IO[bytes]) -> None:
        self._into = into
        self._out = out

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file."""
        _send(self._out, Ask(url, max_length))
        data: bytes | None = _receive(self._into, Content).data
        if data is None:
            raise DownloadHTTPError(f"{url}: the director has no such file", 404)
        return data


def _send(out: IO[bytes], message: msgspec.Struct) -> None:
    """Raises RetryLaterError where the other end is gone."""
    frame = msgspec.msgpack.encode(message)
    try:
        out.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)
        out.flush()
    except BrokenPipeError as error:
        raise RetryLaterError(_ENDED) from error


def _receive(into: IO[bytes], kind: Any) -> Any:
    """Raises RetryLaterError where the other end is gone, or says what cannot be read."""
    size_bytes = int.from_bytes(into.read(_LENGTH_BYTES), "big")
    frame = into.read(size_bytes) if 0 < size_bytes <= MAX_FRAME_BYTES else b""
    if len(frame) != size_bytes or not frame:
        raise RetryLaterError(_ENDED)
    try:
        return from_msgpack(frame, kind)
    except msgspec.DecodeError as error:
        raise RetryLaterError(f"{_ENDED}: {error}") from error


def _error(failed: Failed) -> RoadloopError:
    """As it was raised there; what is refused, what a person must mend, and what is for later are told apart."""
    kinds: tuple[type[RoadloopError], ...] = (MetadataError, ConfigError, DiskFullError)
    kind = next((kind for kind in kinds if kind.code == failed.code), RetryLaterError)
    return kind(failed.detail)
