"""Messages between drive and link: MessagePack over one AF_UNIX SOCK_SEQPACKET socketpair.

The supervisor keeps both ends open, so either process may die and come back. Every message of drive carries its boot:
a link that was started later still knows what it reads. Sending never blocks: what the socket has no room for is left
to the caller, who counts it. The packet boundary is the message boundary, so nothing can be read half.
"""

import socket
from typing import Annotated, Any

import msgspec

from roadloop_models.bundle.manifest import Name, Sha256
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef, ShadowReport
from roadloop_models.contract.streams import MAX_FIELDS
from roadloop_models.errors import MessageError
from roadloop_models.typed import from_msgpack

MAX_IPC_BYTES = 96 * 1024
"""No message is larger; the kernel's default buffer for a socket holds two of them."""
MAX_ROWS = 512


class _IpcMessage(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Base of all messages. Both ends are of the same version: fields go by position."""


class RunningSlot(_IpcMessage, frozen=True, kw_only=True):
    """What one slot runs. `ref` is None where nothing could be loaded; `error` says why."""

    task: str
    ref: ReleaseRef | None
    runtime: str
    precision: str
    providers: tuple[str, ...] = ()
    error: ErrorInfo | None = None


class Hello(_IpcMessage, frozen=True, kw_only=True, tag="hello"):
    """drive -> link: at the start of drive and whenever link attaches."""

    boot: int
    slots: dict[str, RunningSlot]


class Samples(_IpcMessage, frozen=True, kw_only=True, tag="samples"):
    """drive -> link: consecutive samples of a known stream; row i has the number first_seq + i."""

    boot: int
    stream: Name
    first_seq: Annotated[int, msgspec.Meta(ge=1)]
    t_ms: Annotated[list[int], msgspec.Meta(max_length=MAX_ROWS)]
    rows: Annotated[list[list[float]], msgspec.Meta(max_length=MAX_ROWS)]


class Captured(_IpcMessage, frozen=True, kw_only=True, tag="captured"):
    """drive -> link: block `n` of `blocks` of a captured item. Blocks of one item follow each other."""

    boot: int
    sha256: Sha256
    size_bytes: int
    media_type: str
    task: str
    about_stream: str
    about_seq: int
    t_ms: int
    about_row: Annotated[list[float], msgspec.Meta(max_length=MAX_FIELDS)]
    """The sample itself: link judges by it what the item is worth."""
    n: int
    blocks: int
    data: Annotated[bytes, msgspec.Meta(max_length=BLOCK_BYTES)]
    campaign: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Which campaign wanted it; empty: the slot's own capture policy."""


class SlotHealth(_IpcMessage, frozen=True, kw_only=True, tag="health"):
    """drive -> link: how one slot did since its last health message.

    `idle`: it gets no frames, because its source has ended or is down, or because it is paused. Counts from `dropped`
    on are since the start of drive.
    """

    boot: int
    slot: str
    ref: ReleaseRef | None
    decisions: int
    errors: int
    latency_mean_us: float
    latency_max_us: float
    confidence_mean: float | None
    dropped: int
    idle: bool
    last_error: ErrorInfo | None = None
    late: int = 0
    """Decisions later than the slot's deadline after the capture."""
    expired: int = 0
    """Frames given up because they were older than that when they were taken."""
    shed: int = 0
    """Frames not delivered because the slot gave way to overload or heat."""
    share: float = 1.0
    """Of the frames that it wants it gets this share."""
    band: str = "normal"
    temperature_c: float | None = None


class Switched(_IpcMessage, frozen=True, kw_only=True, tag="switched"):
    """drive -> link: the answer to `Switch`. Where not ok, the slot goes on with what it ran before."""

    boot: int
    slot: str
    ref: ReleaseRef
    ok: bool
    runtime: str
    precision: str
    providers: tuple[str, ...] = ()
    error: ErrorInfo | None = None


class Produced(_IpcMessage, frozen=True, kw_only=True, tag="produced"):
    """drive -> link: the last number given in each stream, all of them sent before this message or dropped.

    Without it a gap at the end of a stream would go unnoticed. `ended`: drive stops, no more will come of this boot.
    """

    boot: int
    last_seq: dict[str, int]
    ended: bool = False


class Decided(_IpcMessage, frozen=True, kw_only=True, tag="decided"):
    """drive -> link, while somebody listens: what a slot decided about the frame of `t_ms`.

    `dropped`: how many of these this drive could not send so far.
    """

    boot: int
    slot: str
    release: int
    t_ms: int
    dropped: int
    decision: dict[str, Any]


class ShadowSums(_IpcMessage, frozen=True, kw_only=True, tag="shadow-sums"):
    """drive -> link, once a second: what a candidate beside `incumbent` adds up to since `run` began.

    Sums of one run replace each other, those of several add up.
    """

    boot: int
    slot: str
    run: Annotated[str, msgspec.Meta(max_length=40)]
    incumbent: ReleaseRef
    report: ShadowReport


class Observed(_IpcMessage, frozen=True, kw_only=True, tag="observed"):
    """drive -> link: the signals (sketches/signals.py) of some decisions of one release, a row each."""

    boot: int
    slot: str
    ref: ReleaseRef
    bundle_dir: str
    from_ms: int
    to_ms: int
    rows: Annotated[list[list[float]], msgspec.Meta(min_length=1, max_length=MAX_ROWS)]


class Parked(_IpcMessage, frozen=True, kw_only=True, tag="parked"):
    """drive -> link, with every health message: whether the vehicle is parked; None: nothing says."""

    boot: int
    parked: bool | None


class Attach(_IpcMessage, frozen=True, kw_only=True, tag="attach"):
    """link -> drive: link has started; drive answers with Hello."""


class Switch(_IpcMessage, frozen=True, kw_only=True, tag="switch"):
    """link -> drive: run this version in that slot from the next frame on."""

    slot: str
    ref: ReleaseRef
    bundle_dir: str


class Watch(_IpcMessage, frozen=True, kw_only=True, tag="watch"):
    """link -> drive: whether anybody listens to decisions. Nobody does until link says so."""

    on: bool


class ShadowWish(_IpcMessage, frozen=True, kw_only=True, tag="shadow"):
    """link -> drive: have this installed version decide in that slot's shadow, or none (`ref` is None)."""

    slot: str
    ref: ReleaseRef | None
    bundle_dir: str = ""
    max_cpu_share: float = 0.2


FromDrive = Hello | Samples | Captured | SlotHealth | Switched | Produced | Decided | ShadowSums | Observed | Parked
FromLink = Attach | Switch | Watch | ShadowWish

_encoder = msgspec.msgpack.Encoder()


def encode_ipc(message: FromDrive | FromLink) -> bytes:
    """The bytes of one message. Raises MessageError where they would be more than MAX_IPC_BYTES."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_IPC_BYTES:
        raise MessageError(f"{type(message).__name__} of {len(payload)} bytes: at most {MAX_IPC_BYTES} go in one")
    return payload


class Pipe:
    """One end of the socketpair."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    @classmethod
    def from_fd(cls, fd: int) -> "Pipe":
        """The end that the supervisor handed over."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def try_send(self, payload: bytes) -> bool:
        """Send one encoded message; False where the socket has no room for it (or the other end is gone)."""
        try:
            self._socket.send(payload)
        except (BlockingIOError, InterruptedError, ConnectionError):
            return False
        except OSError as error:
            # ENOBUFS: the kernel has no memory for it now; EMSGSIZE: it never will, which a bound on size precludes.
            raise MessageError(f"pipe: {error.strerror or error}") from error
        return True

    def receive_from_drive(self) -> FromDrive | None:
        """The next message of drive, or None where there is none now. Raises MessageError where it is malformed."""
        message: FromDrive | None = self._receive(FromDrive)
        return message

    def receive_from_link(self) -> FromLink | None:
        """The next message of link, or None where there is none now. Raises MessageError where it is malformed."""
        message: FromLink | None = self._receive(FromLink)
        return message

    def close(self) -> None:
        """Close this end in this process."""
        self._socket.close()

    def _receive(self, kind: Any) -> Any:
        try:
            raw = self._socket.recv(MAX_IPC_BYTES + 1)
        except (BlockingIOError, InterruptedError):
            return None
        except ConnectionError as error:
            raise MessageError(f"pipe: {error.strerror or error}") from error
        if len(raw) > MAX_IPC_BYTES:
            raise MessageError(f"pipe: a message of more than {MAX_IPC_BYTES} bytes")
        try:
            return from_msgpack(raw, kind) if raw else None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MessageError(f"pipe: {error}") from error
