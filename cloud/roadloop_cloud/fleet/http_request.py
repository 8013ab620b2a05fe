"""The part of HTTP/1.1 that the file server speaks (RFC 9110, RFC 9112): GET with at most one range.

Bytes in, bytes out; no I/O.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD_BYTES = 8 * 1024
_RANGE = re.compile(r"^bytes=([0-9]{1,15})-([0-9]{0,15})\Z")
_PATH = re.compile(r"^/[A-Za-z0-9._/-]{1,200}\Z")


@dataclass(frozen=True)
class Get:
    """A request that is understood. `last` is None where the range is open, both are where there is none."""

    path: str
    """Without its leading slash."""
    first: int | None = None
    last: int | None = None
    keep_alive: bool = True


@dataclass(frozen=True)
class Answer:
    """What is sent: the head, then bytes `first` up to `end` of the file."""

    status: HTTPStatus
    head: bytes
    first: int = 0
    end: int = 0
    keep_alive: bool = False


def parse(head: bytes) -> Get | HTTPStatus:
    """The request of a head that ends in an empty line, or the status that refuses it."""
    try:
        request_line, *lines = head.decode("ascii").rstrip("\r\n").split("\r\n")
    except UnicodeDecodeError:
        return HTTPStatus.BAD_REQUEST
    parts = request_line.split(" ")
    fields = _fields(lines)
    if fields is None or len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        return HTTPStatus.BAD_REQUEST
    if parts[0] != "GET":
        return HTTPStatus.METHOD_NOT_ALLOWED
    if not _PATH.match(parts[1]):
        return HTTPStatus.NOT_FOUND
    keep_alive = parts[2] != "HTTP/1.0" and fields.get("connection", "").lower() != "close"
    found = _RANGE.match(fields.get("range", ""))  # what is no range of ours counts as none, as the standard allows
    if found is None:
        return Get(parts[1][1:], keep_alive=keep_alive)
    return Get(parts[1][1:], int(found[1]), int(found[2]) if found[2] else None, keep_alive)


def _fields(lines: list[str]) -> dict[str, str] | None:
    """The header; None where it is malformed, or announces a body: no request of ours has one."""
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            return None
        fields[name.lower()] = value.strip()
    if fields.get("content-length", "0") != "0" or "transfer-encoding" in fields:
        return None
    return fields


def answer(request: Get, size_bytes: int) -> Answer:
    """What a file of that size answers."""
    if request.first is None:
        return Answer(
            HTTPStatus.OK, _head(HTTPStatus.OK, size_bytes, request.keep_alive), 0, size_bytes, request.keep_alive
        )
    last = size_bytes - 1 if request.last is None else min(request.last, size_bytes - 1)
    if request.first > last:
        status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        head = _head(status, 0, request.keep_alive, f"Content-Range: bytes */{size_bytes}")
        return Answer(status, head, keep_alive=request.keep_alive)
    head = _head(
        HTTPStatus.PARTIAL_CONTENT,
        last + 1 - request.first,
        request.keep_alive,
        f"Content-Range: bytes {request.first}-{last}/{size_bytes}",
    )
    return Answer(HTTPStatus.PARTIAL_CONTENT, head, request.first, last + 1, request.keep_alive)


def refusal(status: HTTPStatus, keep_alive: bool = False) -> Answer:
    """An answer without a body."""
    return Answer(status, _head(status, 0, keep_alive), keep_alive=keep_alive)


def _head(status: HTTPStatus, length: int, keep_alive: bool, *more: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Length: {length}",
        "Content-Type: application/octet-stream",
        "Accept-Ranges: bytes",
        *more,
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
