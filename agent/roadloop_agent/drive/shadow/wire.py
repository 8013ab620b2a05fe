"""Between drive and the process of a shadow: MessagePack over a stream socket, each message behind its length.

A case is followed by the bytes of its arrays. Everything is bounded before it is read.
"""

import math
import socket
import struct
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from roadloop_models.errors import MessageError
from roadloop_models.typed import from_msgpack

Seen: TypeAlias = tuple[npt.NDArray[Any], ...]
"""What the incumbent was given, before it is made into tensors: images, windows, numbers."""

MAX_HEADER_BYTES = 4096
MAX_ARRAY_BYTES = 64 << 20
_LENGTH = struct.Struct("<I")


class ArraySpec(msgspec.Struct, frozen=True, array_like=True):
    """What the bytes of an array mean."""

    dtype: Annotated[str, msgspec.Meta(pattern=r"^(\|[biu]1|<[iuf][248])\Z")]
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(max_length=8)]

    @property
    def size_bytes(self) -> int:
        """Of the whole array."""
        return int(np.dtype(self.dtype).itemsize) * math.prod(self.shape)


class Look(msgspec.Struct, frozen=True, tag="look"):
    """To the shadow: decide about this. The arrays follow."""

    arrays: Annotated[tuple[ArraySpec, ...], msgspec.Meta(max_length=8)]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From the shadow: both models are loaded."""


class Compared(msgspec.Struct, frozen=True, tag="compared"):
    """From the shadow: both decided. `cpu_s`: processor time since its last message."""

    agrees: bool
    latency_us: float
    incumbent_latency_us: float
    confidence_delta: float | None
    cpu_s: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """From the shadow: the candidate could not decide (`about` frame), or cannot be compared at all (`all`)."""

    about: Annotated[str, msgspec.Meta(pattern=r"^(frame|all)\Z")]
    code: Annotated[str, msgspec.Meta(max_length=40)]
    detail: Annotated[str, msgspec.Meta(max_length=500)]
    cpu_s: float = 0.0


class Passed(msgspec.Struct, frozen=True, tag="passed"):
    """From the shadow: the incumbent cannot decide about this; it says nothing of the candidate."""

    cpu_s: float


Answer: TypeAlias = Ready | Compared | Failed | Passed
_encoder = msgspec.msgpack.Encoder()


def send_case(sock: socket.socket, seen: Seen) -> None:
    """Send what was seen. Raises MessageError where it is more than a shadow takes, OSError."""
    specs = tuple(ArraySpec(array.dtype.str, array.shape) for array in seen)
    if sum(spec.size_bytes for spec in specs) > MAX_ARRAY_BYTES:
        raise MessageError(f"shadow: a frame of more than {MAX_ARRAY_BYTES} bytes")
    _send(sock, _encoder.encode(Look(specs)))
    for array in seen:
        if array.size:
            sock.sendall(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def receive_case(sock: socket.socket) -> Seen | None:
    """The next case; None where the other end is closed. Raises MessageError where it is malformed."""
    raw = _receive(sock)
    if raw is None:
        return None
    try:
        look = from_msgpack(raw, Look)
    except msgspec.DecodeError as error:
        raise MessageError(f"shadow: {error}") from error
    if sum(spec.size_bytes for spec in look.arrays) > MAX_ARRAY_BYTES:
        raise MessageError(f"shadow: a frame of more than {MAX_ARRAY_BYTES} bytes")
    return tuple(_receive_array(sock, spec) for spec in look.arrays)


def send_answer(sock: socket.socket, answer: Answer) -> None:
    """Send one answer. Raises OSError."""
    _send(sock, _encoder.encode(answer))


def receive_answer(sock: socket.socket) -> Answer | None:
    """The next answer; None where the other end is closed. Raises MessageError, TimeoutError, OSError."""
    raw = _receive(sock)
    try:
        return None if raw is None else from_msgpack(raw, Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MessageError(f"shadow: {error}") from error


def _send(sock: socket.socket, payload: bytes) -> None:
    sock.sendall(_LENGTH.pack(len(payload)) + payload)


def _receive(sock: socket.socket) -> bytes | None:
    head = bytearray(_LENGTH.size)
    if not _fill(sock, memoryview(head)):
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_HEADER_BYTES:
        raise MessageError(f"shadow: a message of {length} bytes, at most {MAX_HEADER_BYTES} are read")
    payload = bytearray(length)
    return bytes(payload) if _fill(sock, memoryview(payload)) else None


def _receive_array(sock: socket.socket, spec: ArraySpec) -> npt.NDArray[Any]:
    array = np.empty(spec.shape, dtype=spec.dtype)
    if array.size and not _fill(sock, array.reshape(-1).view(np.uint8).data):
        raise MessageError("shadow: the other end closed in the middle of a frame")
    return array


def _fill(sock: socket.socket, view: memoryview) -> bool:
    """Read until it is full; False where the other end closed before."""
    while view:
        received = sock.recv_into(view)
        if received == 0:
            return False
        view = view[received:]
    return True
