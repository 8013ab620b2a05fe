"""Maintenance windows as people write them: `Mo-Fr 01:00-05:00`, `Sa,Su 00:00-24:00`, `22:00-04:00`."""

import re

from roadloop_models.contract.messages import MaintenanceWindow
from roadloop_models.errors import ConfigError

_DAYS = ("mo", "tu", "we", "th", "fr", "sa", "su")
_TEXT = re.compile(r"^(?:([A-Za-z]{2}(?:[-,][A-Za-z]{2})*)\s+)?(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\Z")


def parse_window(text: str) -> MaintenanceWindow:
    """A window of the vehicle's local time; one that ends before it begins goes past midnight. Raises ConfigError."""
    found = _TEXT.match(text.strip())
    try:
        if found is None:
            raise ValueError
        days, *clock = found.groups()
        begin, end = _minute(*clock[:2]), _minute(*clock[2:])
        if begin == end:
            raise ValueError
        return MaintenanceWindow(from_minute=begin, to_minute=end, weekdays=_days(days))
    except ValueError:
        raise ConfigError(f"window '{text}': expected days and times such as 'Mo-Fr 01:00-05:00'") from None


def _days(text: str | None) -> tuple[int, ...]:
    if text is None:
        return tuple(range(1, 8))
    found: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        begin = _DAYS.index(first)
        end = _DAYS.index(last) if last else begin
        found |= {(begin + step) % 7 + 1 for step in range((end - begin) % 7 + 1)}
    return tuple(sorted(found))


def _minute(hour: str, minute: str) -> int:
    value = int(hour) * 60 + int(minute)
    if int(minute) > 59 or value > 1440:
        raise ValueError
    return value
