"""GNSS receivers that send NMEA 0183: recorded sentences, and a serial device or named pipe."""

import errno
import os
import select
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

from roadloop_agent.drive.frames import Reported
from roadloop_agent.drive.sources.signals.board import Updates
from roadloop_agent.drive.sources.signals.nmea import PATHS, NmeaParser
from roadloop_models.errors import ConfigError, DataError, RetryLaterError, RoadloopError

_READ_BYTES = 4096


class NmeaLog:
    """Recorded sentences, in the time that they say; those before the first date are left out."""

    def __init__(self, path: Path, places: Mapping[str, int], name: str) -> None:
        """Nothing is read yet."""
        self.name = name
        self.paths = frozenset(path for path in PATHS if path in places)
        self.indices = tuple(places[path] for path in self.paths)
        self._places = places
        self._path = path
        self._damaged = 0

    def readings(self, passed_over: Reported) -> Iterator[tuple[float, Updates]]:
        """What each sentence says. Raises DataError where there is no sentence with a date."""
        parser = NmeaParser()
        dated = False
        with self._path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                for t_s, values in parser.feed(data):
                    if t_s is not None:
                        dated = True
                        yield t_s, [(self._places[path], value) for path, value in values.items() if path in self.paths]
                self._damaged = parser.damaged
        if not dated:
            raise DataError(f"{self._path}: no RMC sentence with date, time and a right checksum")

    def troubles(self) -> list[RoadloopError]:
        """How many lines were damaged so far."""
        damaged, self._damaged = self._damaged, 0
        return [DataError(f"{self._path}: {damaged} lines are damaged or no NMEA")] if damaged else []


class NmeaDevice:
    """A receiver that is open. `read` never waits longer than it is told."""

    def __init__(self, device: str, baud: int | None, places: Mapping[str, int]) -> None:
        """Raises RetryLaterError where it cannot be opened now, ConfigError where it never can."""
        self._device = device
        self._places = {path: index for path, index in places.items() if path in PATHS}
        self._parser = NmeaParser()
        try:
            self._fd = os.open(device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise RetryLaterError(f"{device}: {error.strerror or error}; is the receiver plugged in?") from error
        try:
            if os.isatty(self._fd):
                _set_raw(self._fd, baud)
            elif baud is not None:
                raise ConfigError(f"{device}: baud is for a serial device, this is none")
        except termios.error as error:
            os.close(self._fd)
            raise RetryLaterError(f"{device}: cannot be set up: {error}") from error
        except ConfigError:
            os.close(self._fd)
            raise

    def read(self, timeout_s: float) -> Updates:
        """What came; nothing where nothing came in time. Raises RetryLaterError where the device is gone."""
        readable, _, _ = select.select([self._fd], [], [], timeout_s)
        if not readable:
            return ()
        try:
            data = os.read(self._fd, _READ_BYTES)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return ()
            raise RetryLaterError(f"{self._device}: {error.strerror or error}") from error
        if not data:
            raise RetryLaterError(f"{self._device}: the other end was closed; is the receiver plugged in?")
        places = self._places
        return [
            (places[path], value)
            for _, values in self._parser.feed(data)
            for path, value in values.items()
            if path in places
        ]

    def troubles(self) -> list[RoadloopError]:
        """How many lines were damaged since the last time."""
        damaged, self._parser.damaged = self._parser.damaged, 0
        return [DataError(f"{self._device}: {damaged} lines are damaged or no NMEA")] if damaged else []

    def close(self) -> None:
        """Give the device back."""
        os.close(self._fd)


def _set_raw(fd: int, baud: int | None) -> None:
    """No echo, no line editing, no signals; the speed only where it is asked for."""
    attributes = termios.tcgetattr(fd)
    attributes[0] = termios.IGNBRK
    attributes[1] = 0
    attributes[2] = (attributes[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8 | termios.CREAD | termios.CLOCAL
    attributes[3] = 0
    if baud is not None:
        attributes[4] = attributes[5] = getattr(termios, f"B{baud}")
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
