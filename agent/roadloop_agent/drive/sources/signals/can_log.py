"""Recorded CAN: candump, Vector's BLF and ASC, and the raw CAN of comma2k19 (npz)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from roadloop_agent.drive.frames import Reported
from roadloop_agent.drive.sources.signals.board import Updates
from roadloop_agent.drive.sources.signals.dbc import EXTENDED, Decoder, find_signal, load_dbc
from roadloop_agent.drive.sources.signals.mapping import MappedSignal
from roadloop_models.data_files import check_readable, read_arrays
from roadloop_models.errors import ConfigError, DataError
from roadloop_models.recordings.columns import read_npz_names

CanFrame = tuple[float, int, bytes]
"""(seconds on the log's clock, id with EXTENDED where it has 29 bits, data)"""
SUFFIXES = (".log", ".blf", ".asc", ".npz")
_FIELDS = {"t": "f", "src": "iu", "address": "iu", "data": "S"}
_MAX_STANDARD_ID = 0x7FF
_CHUNK = 8192


class CanLog:
    """A log whose frames are decoded to the signals that are named in it."""

    def __init__(
        self, path: Path, dbc: Sequence[Path], bus: int | str | None, signals: Sequence[MappedSignal], name: str
    ) -> None:
        """Raises ConfigError where a DBC is broken or lacks a signal, DataError where there is no such log."""
        check_log(path)
        database = load_dbc(dbc)
        self.name = name
        self.paths = frozenset(signal.path for signal in signals)
        self.indices = tuple(signal.index for signal in signals)
        self.decoder = Decoder([find_signal(database, signal) for signal in signals], padded=path.suffix == ".npz")
        self._path = path
        self._bus = bus
        self._mapped = {signal.index: signal for signal in signals}

    def readings(self, passed_over: Reported) -> Iterator[tuple[float, Updates]]:
        """What each used frame says. Raises DataError where the log is broken from its start."""
        decode = self.decoder.decode
        for t_s, key, data in read_can_log(self._path, self._bus, passed_over):
            updates = decode(key, data)
            if updates:
                yield t_s, updates

    def troubles(self) -> list[ConfigError]:
        """What does not fit between DBC and log so far."""
        return [ConfigError(f"{self._path}: {text}") for text in self.decoder.mismatches()]


def check_log(path: Path) -> None:
    """Raises DataError where there is no such log, or it is of none of the kinds that are read."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: a CAN log is one of {', '.join(SUFFIXES)}")
    check_readable(path)


def read_can_log(path: Path, bus: int | str | None, passed_over: Reported) -> Iterator[CanFrame]:
    """The data frames of one bus, or of all, in the order of the log; error and remote frames are left out.

    Raises DataError where nothing can be read; what is broken after frames were read goes to `passed_over`.
    """
    return _npz(path, bus) if path.suffix.lower() == ".npz" else _messages(path, bus, passed_over)


def _npz(path: Path, bus: int | str | None) -> Iterator[CanFrame]:
    prefix = "raw_can_" if "raw_can_t" in read_npz_names(path) else ""
    arrays = read_arrays(path, {f"{prefix}{name}": kinds for name, kinds in _FIELDS.items()})
    t_s, src, address, data = (arrays[f"{prefix}{name}"] for name in _FIELDS)
    if not len(t_s) == len(src) == len(address) == len(data):
        raise DataError(f"{path}: t, src, address and data differ in length")
    if bus is not None:
        rows = src == _as_number(path, bus)
        t_s, address, data = t_s[rows], address[rows], data[rows]
        if not len(t_s):
            raise DataError(f"{path}: no frame of bus {bus}; it has {', '.join(map(str, np.unique(src)))}")
    # The file does not say which ids have 29 bits: only those that need them.
    keys = address.astype(np.int64)
    keys = np.where(keys > _MAX_STANDARD_ID, keys | EXTENDED, keys)
    for start in range(0, len(t_s), _CHUNK):
        part = slice(start, start + _CHUNK)
        yield from zip(t_s[part].tolist(), keys[part].tolist(), data[part].tolist(), strict=True)


def _messages(path: Path, bus: int | str | None, passed_over: Reported) -> Iterator[CanFrame]:
    try:
        from can import ASCReader, BLFReader, CanutilsLogReader
    except ImportError as error:
        raise ConfigError(f"a CAN log needs python-can: pip install 'roadloop[can]' ({error})") from error
    reader = {".log": CanutilsLogReader, ".blf": BLFReader, ".asc": ASCReader}[path.suffix.lower()]
    wanted = None if bus is None else str(bus)
    frames = 0
    channels: set[str] = set()
    try:
        with cast(Any, reader)(path) as messages:
            for message in messages:
                channels.add(str(message.channel))
                if (wanted is not None and str(message.channel) != wanted) or message.is_error_frame:
                    continue
                if message.is_remote_frame:
                    continue
                frames += 1
                key = message.arbitration_id | (EXTENDED if message.is_extended_id else 0)
                yield message.timestamp, key, bytes(message.data)
    except Exception as error:  # (the readers raise whatever their parsing does)
        broken = DataError(f"{path}: broken after {frames} frames: {type(error).__name__}: {error}")
        if not frames:
            raise broken from error
        passed_over(broken)
    if not frames:
        raise DataError(
            f"{path}: no CAN frame" + (f" of bus {bus}; it has {', '.join(sorted(channels))}" if channels else "")
        )


def _as_number(path: Path, bus: int | str) -> int:
    try:
        return int(bus)
    except ValueError as error:
        raise ConfigError(f"{path}: bus: '{bus}': buses of an npz are numbers") from error
