"""NMEA 0183 sentences of a GNSS receiver: RMC, GGA, VTG and GST, whatever talker they come from. No I/O."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

MAX_LINE_BYTES = 256
"""The standard says 82; receivers with many digits send a little more."""
_LOCATION = "Vehicle.CurrentLocation."
LATITUDE, LONGITUDE = f"{_LOCATION}Latitude", f"{_LOCATION}Longitude"
ALTITUDE, HEADING = f"{_LOCATION}Altitude", f"{_LOCATION}Heading"
SPEED, ACCURACY = f"{_LOCATION}Speed", f"{_LOCATION}HorizontalAccuracy"
PATHS = (LATITUDE, LONGITUDE, ALTITUDE, HEADING, SPEED, ACCURACY)
_KNOT_MPS = 1852 / 3600
_DAY_S = 86_400.0
_HALF_DAY_S = 43_200.0

Fix = tuple[float | None, dict[str, float]]
"""(seconds since 1970 by the receiver's clock, None before it has said any; VSS path -> value)"""


class NmeaParser:
    """Bytes in, values out. What is damaged or not understood is counted and left out."""

    def __init__(self) -> None:
        self.sentences = 0
        self.damaged = 0
        self._rest = b""
        self._skipping = False
        self._day_s: float | None = None
        self._t_s: float | None = None

    def feed(self, data: bytes) -> list[Fix]:
        """What the sentences say that end in `data`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:
            lines, self._skipping = lines[1:], False
        if len(self._rest) > MAX_LINE_BYTES:
            self.damaged += not self._skipping
            self._rest, self._skipping = b"", True
        return [fix for line in lines if (fix := self._sentence(line.strip())) is not None]

    def _sentence(self, line: bytes) -> Fix | None:
        if not line:
            return None
        fields = _checked(line)
        if fields is None:
            self.damaged += 1
            return None
        parse = _SENTENCES.get(fields[0][-3:])
        if parse is None:
            return None
        try:
            values = parse(fields)
            self._keep_time(fields)
        except (ValueError, IndexError):
            self.damaged += 1
            return None
        self.sentences += 1
        return self._t_s, values

    def _keep_time(self, fields: Sequence[str]) -> None:
        """RMC says date and time; GGA and GST the time of day; VTG nothing: it goes with the one before."""
        kind = fields[0][-3:]
        if kind == "VTG" or not fields[1]:
            return
        in_day_s = _seconds_of_day(fields[1])
        if kind == "RMC" and fields[9]:
            self._day_s = datetime.strptime(fields[9], "%d%m%y").replace(tzinfo=UTC).timestamp()
        elif self._t_s is not None and self._day_s is not None:
            # Past midnight a sentence without a date may come before the one that has it.
            step_s = self._day_s + in_day_s - self._t_s
            if step_s < -_HALF_DAY_S:
                self._day_s += _DAY_S
            elif step_s > _HALF_DAY_S:
                self._day_s -= _DAY_S
        if self._day_s is not None:
            self._t_s = self._day_s + in_day_s


def checksum(body: bytes) -> int:
    """The exclusive or of all bytes between `$` and `*`."""
    total = 0
    for byte in body:
        total ^= byte
    return total


def _checked(line: bytes) -> list[str] | None:
    body, star, told = line[1:].partition(b"*")
    if not line.startswith(b"$") or not star or len(line) > MAX_LINE_BYTES:
        return None
    try:
        if int(told, 16) != checksum(body):
            return None
        return body.decode("ascii").split(",")
    except ValueError:
        return None


def _rmc(fields: Sequence[str]) -> dict[str, float]:
    if fields[2] != "A":
        return {}
    values = _position(fields[3:7])
    if fields[7]:
        values[SPEED] = float(fields[7]) * _KNOT_MPS
    if fields[8]:
        values[HEADING] = math.radians(float(fields[8]) % 360)
    return values


def _gga(fields: Sequence[str]) -> dict[str, float]:
    # 6 is an estimate by dead reckoning, 7 typed in, 8 simulated: none of them a fix.
    if fields[6] not in ("1", "2", "3", "4", "5"):
        return {}
    values = _position(fields[2:6])
    if fields[9]:
        values[ALTITUDE] = float(fields[9])
    return values


def _vtg(fields: Sequence[str]) -> dict[str, float]:
    values = {}
    if len(fields) > 9 and fields[9] in ("N", "E"):
        return {}
    if fields[7]:
        values[SPEED] = float(fields[7]) / 3.6
    if fields[1]:
        values[HEADING] = math.radians(float(fields[1]) % 360)
    return values


def _gst(fields: Sequence[str]) -> dict[str, float]:
    if not fields[6] or not fields[7]:
        return {}
    return {ACCURACY: math.hypot(float(fields[6]), float(fields[7])) / math.sqrt(2)}


_SENTENCES: dict[str, Callable[[Sequence[str]], dict[str, float]]] = {
    "RMC": _rmc,
    "GGA": _gga,
    "VTG": _vtg,
    "GST": _gst,
}


def _position(fields: Sequence[str]) -> dict[str, float]:
    latitude, north, longitude, east = fields
    return {
        LATITUDE: _degrees(latitude, 2) * {"N": 1, "S": -1}.get(north, math.nan),
        LONGITUDE: _degrees(longitude, 3) * {"E": 1, "W": -1}.get(east, math.nan),
    }


def _degrees(text: str, digits: int) -> float:
    """`ddmm.mmm` (or `dddmm.mmm`) as degrees. Raises ValueError."""
    minutes = float(text[digits:])
    if not 0 <= minutes < 60:
        raise ValueError(text)
    return int(text[:digits]) + minutes / 60


def _seconds_of_day(text: str) -> float:
    hours, minutes, seconds = int(text[:2]), int(text[2:4]), float(text[4:])
    if hours > 23 or minutes > 59 or not 0 <= seconds < 61:
        raise ValueError(text)
    return hours * 3600 + minutes * 60 + seconds
