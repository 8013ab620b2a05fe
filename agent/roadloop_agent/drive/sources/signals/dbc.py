"""DBC files: which messages the used signals are in, and their bits compiled to shifts and masks.

Only used signals are decoded. A frame whose length is not the DBC's is not decoded at all: where one of them is wrong,
so may be the other's bits.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadloop_agent.drive.sources.signals.board import Updates
from roadloop_agent.drive.sources.signals.mapping import MappedSignal
from roadloop_models.errors import ConfigError
from roadloop_models.settings import nearest

if TYPE_CHECKING:
    from cantools.database.can import Database, Message, Signal

MAX_DBC_BYTES = 32 * 1024**2
EXTENDED = 1 << 31
"""Set in an id of 29 bits, so that it is not taken for the same number of 11."""
_FD_LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64)
_FLOATS = {16: struct.Struct(">e"), 32: struct.Struct(">f"), 64: struct.Struct(">d")}


@dataclass(frozen=True)
class UsedSignal:
    """A signal of a DBC that a slot uses: its place on the board, and value = raw * factor + offset there."""

    index: int
    message: "Message"
    signal: "Signal"
    factor: float
    offset: float


def load_dbc(paths: Sequence[Path]) -> "Database":
    """The messages of all files together. Raises ConfigError naming the file.

    Lines of the `IMPORT` convention of opendbc are dropped: list the files that they name too.
    """
    try:
        from cantools.database.can import Database
    except ImportError as error:
        raise ConfigError(f"a CAN feed needs cantools and python-can: pip install 'roadloop[can]' ({error})") from error
    database = Database(strict=False)
    for path in paths:
        try:
            if path.stat().st_size > MAX_DBC_BYTES:
                raise ConfigError(f"{path}: larger than {MAX_DBC_BYTES} bytes")
            text = path.read_bytes().decode("cp1252", errors="replace")
            lines = [line for line in text.splitlines() if not line.startswith('CM_ "IMPORT')]
            database.add_dbc_string("\n".join(lines) + "\n")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        except ConfigError:
            raise
        except Exception as error:  # (cantools and its parser raise many kinds)
            raise ConfigError(f"{path}: not a DBC file: {' '.join(str(error).split())[:300]}") from error
    return database


def find_signal(database: "Database", mapped: MappedSignal) -> UsedSignal:
    """The signal that `MESSAGE.SIGNAL` names, with its conversion to the catalogue's unit.

    Raises ConfigError naming the nearest that there is, or the unit that has to be said.
    """
    name = mapped.name
    message_name, _, signal_name = name.partition(".")
    messages = {message.name: message for message in database.messages}
    if message_name not in messages:
        raise ConfigError(f"'{name}': no message '{message_name}' in the DBC{_near(message_name, messages)}")
    message = messages[message_name]
    signals = {signal.name: signal for signal in message.signals}
    if signal_name not in signals:
        raise ConfigError(f"'{name}': no signal '{signal_name}' in message {message_name}{_near(signal_name, signals)}")
    signal = signals[signal_name]
    try:
        factor, offset = mapped.conversion(signal.unit or "")
    except ConfigError as error:
        raise ConfigError(f"'{name}': the DBC's unit is '{signal.unit or ''}': say `unit` ({error})") from error
    return UsedSignal(
        index=mapped.index,
        message=message,
        signal=signal,
        factor=float(signal.scale) * factor,
        offset=float(signal.offset) * factor + offset,
    )


def message_key(message: "Message") -> int:
    """The id by which frames of a message are known: EXTENDED is set where it has 29 bits."""
    return int(message.frame_id) | (EXTENDED if message.is_extended_frame else 0)


@dataclass
class MessageCount:
    """What was seen of one message."""

    name: str
    frames: int = 0
    mismatched: int = 0
    last_length: int = 0


@dataclass
class Decoder:
    """Decodes frames to values of used signals. `padded`: the frames' trailing zeros were lost and come back."""

    used: Sequence[UsedSignal]
    padded: bool = False
    counts: dict[int, MessageCount] = field(init=False)

    def __post_init__(self) -> None:
        by_key: dict[int, list[UsedSignal]] = {}
        for signal in self.used:
            by_key.setdefault(message_key(signal.message), []).append(signal)
        self.counts = {key: MessageCount(signals[0].message.name) for key, signals in by_key.items()}
        self._lengths = {key: _lengths(signals[0].message) for key, signals in by_key.items()}
        self._decode = {key: compiled(signals) for key, signals in by_key.items()}

    @property
    def keys(self) -> tuple[int, ...]:
        """The ids that are used."""
        return tuple(self._decode)

    def decode(self, key: int, data: bytes) -> Updates:
        """What a frame says of used signals: nothing where none is in it, or its length is not the DBC's."""
        decode = self._decode.get(key)
        if decode is None:
            return ()
        count = self.counts[key]
        count.frames += 1
        shortest, longest = self._lengths[key]
        length = len(data)
        if self.padded and length < shortest:
            data, length = data.ljust(shortest, b"\0"), shortest
        if not shortest <= length <= longest:
            count.mismatched += 1
            count.last_length = length
            return ()
        return decode(data)

    def mismatches(self) -> list[str]:
        """What to say of messages that came in another length than the DBC has."""
        return [
            f"{count.name} (0x{key & ~EXTENDED:X}): {count.mismatched} of {count.frames} frames have another length "
            f"({count.last_length} bytes, the DBC says {self._lengths[key][0]}) and are not decoded: "
            "is it the DBC of this vehicle?"
            for key, count in self.counts.items()
            if count.mismatched
        ]


def compiled(signals: Sequence[UsedSignal]) -> Callable[[bytes], Updates]:
    """What decodes these signals, all of one message, from its bytes (of at least the message's length)."""
    message = signals[0].message
    length = int(message.length)
    plain = [signal for signal in signals if not signal.signal.multiplexer_ids]
    fields = [(signal.index, _raw(signal.signal, length), signal.factor, signal.offset) for signal in plain]
    switched = [
        (_condition(message, signal.signal), signal.index, _raw(signal.signal, length), signal.factor, signal.offset)
        for signal in signals
        if signal.signal.multiplexer_ids
    ]

    def decode(data: bytes) -> Updates:
        big, little = int.from_bytes(data[:length], "big"), int.from_bytes(data[:length], "little")
        updates = [(index, raw(big, little) * factor + offset) for index, raw, factor, offset in fields]
        for present, index, raw, factor, offset in switched:
            if present(big, little):
                updates.append((index, raw(big, little) * factor + offset))
        return updates

    return decode


Raw = Callable[[int, int], float]
"""From the frame's bytes as one integer (big-endian, little-endian) to a signal's raw value."""


def _raw(signal: "Signal", length: int) -> Raw:
    """Motorola: `start` is the place of the highest bit, counted byte by byte, in each from bit 7 down to 0."""
    size, start = int(signal.length), int(signal.start)
    mask = (1 << size) - 1
    motorola = signal.byte_order == "big_endian"
    shift = length * 8 - ((start // 8) * 8 + 7 - start % 8) - size if motorola else start
    if shift < 0 or (not motorola and start + size > length * 8):
        raise ConfigError(f"signal {signal.name} lies outside the {length} bytes of its message")
    if signal.is_float:
        unpack, width = _FLOATS[size].unpack, size // 8
        return lambda big, little: unpack((((big if motorola else little) >> shift) & mask).to_bytes(width, "big"))[0]
    if not signal.is_signed:
        if motorola:
            return lambda big, little: (big >> shift) & mask
        return lambda big, little: (little >> shift) & mask
    half = 1 << (size - 1)
    # Adding and taking half away again carries the sign upwards.
    if motorola:
        return lambda big, little: (((big >> shift) + half) & mask) - half
    return lambda big, little: (((little >> shift) + half) & mask) - half


def _condition(message: "Message", signal: "Signal") -> Callable[[int, int], bool]:
    """Whether a multiplexed signal is in a frame: its selector says so, and the selector itself is there."""
    selectors: list[tuple[Raw, frozenset[int]]] = []
    at: Any = signal
    while at.multiplexer_ids:
        selector = message.get_signal_by_name(at.multiplexer_signal)
        selectors.append((_raw(selector, int(message.length)), frozenset(at.multiplexer_ids)))
        at = selector
    return lambda big, little: all(raw(big, little) in ids for raw, ids in selectors)


def _lengths(message: "Message") -> tuple[int, int]:
    """(shortest, longest) frame of a message: CAN-FD has certain lengths only, and pads up to the next."""
    length = int(message.length)
    return length, next(fd for fd in _FD_LENGTHS if fd >= length) if length > 8 else length


def _near(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    hint = nearest(word, names)
    return hint if hint.startswith("; did you mean") or len(names) <= 12 else f"; it has {len(names)} others"


__all__ = ["EXTENDED", "Decoder", "UsedSignal", "find_signal", "load_dbc", "message_key"]
