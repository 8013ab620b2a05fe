"""Files over HTTPS ranges: mutual TLS with the vehicle's own certificate, resumed at the byte where it broke off.

The server is believed as little as the blocks of MQTT are: what it announces must be what is signed, byte for byte, and
whoever sends less than a block in `give_up_s` is left.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError

from roadloop_agent.update.fetch import MAX_METADATA_BYTES
from roadloop_agent.update.parts import PartFile
from roadloop_agent.update.resume import FetchContext, ResumingFetcher
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.errors import FetchInterruptedError, RetryLaterError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 4.0


class HttpsFetcher(ResumingFetcher):
    """See the module. `connect` prepares a connection with that timeout; it is opened by its first request."""

    def __init__(
        self,
        connect: Callable[[float], HTTPConnection],
        mono: Callable[[], float],
        pause: Callable[[float], object],
        *,
        timeout_s: float = 10.0,
        give_up_s: float = 60.0,
        attempts: int = 4,
        spent: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        """`attempts`: how many connections in a row may bring nothing; `spent` hears how many bytes came."""
        self._connect = connect
        self._mono = mono
        self._pause = pause
        self._timeout_s = timeout_s
        self._give_up_s = give_up_s
        self._attempts = attempts
        self._spent = spent

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A metadata file; never resumed, and asked for once."""
        limit = min(max_length, MAX_METADATA_BYTES)
        transfer = self._transfer(url, self._context)
        try:
            with closing(self._connect(self._timeout_s)) as connection:
                connection.request("GET", f"/{url}")
                response = connection.getresponse()
                if response.status != 200:
                    raise _refusal(url, response)
                if response.length is None or response.length > limit:
                    raise DownloadLengthMismatchError(
                        f"{url}: {response.length} bytes are announced, at most {limit} are read"
                    )
                return b"".join(transfer.read(response, response.length))
        except (OSError, HTTPException) as error:
            raise FetchInterruptedError(f"{url}: {_reason(error)}") from error

    def fill(self, url: str, part: PartFile, context: FetchContext) -> None:
        """Fetch the bytes of a target that are not here, over as many connections as it takes."""
        transfer = self._transfer(url, context)
        while gaps := part.gaps():
            context.check(url)
            try:
                with closing(self._connect(max(self._timeout_s, context.slow_s))) as connection:
                    for first, end in gaps:
                        response = _ask_for(connection, url, first, end, part.size_bytes)
                        at = first
                        for data in transfer.read(response, end - first):
                            for _ in part.append(at, data):
                                context.arrived(url)
                            at += len(data)
            except ssl.SSLCertVerificationError as error:
                raise RetryLaterError(f"{url}: the file server's certificate is refused: {_reason(error)}") from error
            except (OSError, HTTPException) as error:
                self._pause(transfer.pause_s(error))

    def _transfer(self, url: str, context: FetchContext | None) -> "_Transfer":
        give_up_s = max(self._give_up_s, 3 * context.slow_s) if context is not None else self._give_up_s
        return _Transfer(url, context, mono=self._mono, give_up_s=give_up_s, attempts=self._attempts, spent=self._spent)


class _Transfer:
    """One file under way: who may end it, how little it may bring, and how often nothing."""

    def __init__(
        self,
        url: str,
        context: FetchContext | None,
        *,
        mono: Callable[[], float],
        give_up_s: float,
        attempts: int,
        spent: Callable[[int], None],
    ) -> None:
        self._url = url
        self._context = context
        self._mono = mono
        self._give_up_s = give_up_s
        self._attempts = attempts
        self._spent = spent
        self._failures = 0
        self._bytes = 0
        self._since_s = mono()

    def read(self, response: HTTPResponse, size_bytes: int) -> Iterator[bytes]:
        """Exactly so many bytes of a body, as they come.

        Raises ConnectionError where there are fewer, FetchInterruptedError where they come too slowly.
        """
        uncounted = 0
        try:
            while size_bytes:
                if self._context is not None:
                    self._context.check(self._url)
                data = response.read1(min(BLOCK_BYTES, size_bytes))
                if not data:
                    raise ConnectionError("the connection ended within the file")
                size_bytes -= len(data)
                uncounted += len(data)
                self._came(len(data))
                yield data
                if uncounted >= BLOCK_BYTES:
                    self._spent(uncounted)
                    uncounted = 0
        finally:
            if uncounted:
                self._spent(uncounted)

    def pause_s(self, error: Exception) -> float:
        """How long to wait after a connection that broke. Raises FetchInterruptedError where that was the last."""
        self._check(_reason(error))
        self._failures += 1
        if self._failures >= self._attempts:
            raise FetchInterruptedError(f"{self._url}: {self._failures} connections brought nothing: {_reason(error)}")
        return min(_FIRST_PAUSE_S * 2.0 ** (self._failures - 1), _LONGEST_PAUSE_S)

    def _came(self, size_bytes: int) -> None:
        self._failures = 0
        self._bytes += size_bytes
        if self._bytes >= BLOCK_BYTES:
            self._bytes, self._since_s = 0, self._mono()
        self._check("too slow")

    def _check(self, why: str) -> None:
        passed_s = self._mono() - self._since_s
        if passed_s >= self._give_up_s:
            raise FetchInterruptedError(f"{self._url}: less than {BLOCK_BYTES} bytes in {passed_s:.0f} s: {why}")


def connector(url: str, tls: ssl.SSLContext) -> Callable[[float], HTTPConnection]:
    """Connections to the file server at `url` (`https://host:port`)."""
    parts = urlsplit(url)

    def connect(timeout_s: float) -> HTTPConnection:
        return HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout_s, context=tls)

    return connect


def _ask_for(connection: HTTPConnection, url: str, first: int, end: int, size_bytes: int) -> HTTPResponse:
    """The response whose body is that range. Raises what `fill` does where it is another."""
    connection.request("GET", f"/{url}", headers={"Range": f"bytes={first}-{end - 1}"})
    response = connection.getresponse()
    if response.status != 206:
        raise _refusal(url, response)
    announced = response.getheader("Content-Range"), response.length
    expected = f"bytes {first}-{end - 1}/{size_bytes}", end - first
    if announced != expected:
        raise DownloadLengthMismatchError(f"{url}: {announced} is announced, {expected} was expected")
    return response


def _refusal(url: str, response: HTTPResponse) -> Exception:
    if response.status == 404:
        return DownloadHTTPError(f"{url}: the file server has no such file", 404)
    return RetryLaterError(f"{url}: the file server answers {response.status} {response.reason}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
