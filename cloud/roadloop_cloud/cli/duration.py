"""A stretch of time as an option: `90`, `90s`, `30min`, `6h` or `7d`."""

import math
from typing import Any

import click

_UNITS_S = {"min": 60.0, "s": 1.0, "h": 3600.0, "d": 86_400.0}


class Duration(click.ParamType[float]):
    """Seconds as float; a number without a unit is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuses what is not a positive, finite stretch of time."""
        if isinstance(value, float):
            return value
        text, unit_s = str(value), 1.0
        for unit, length_s in _UNITS_S.items():
            if text.endswith(unit):
                text, unit_s = text.removesuffix(unit), length_s
                break
        try:
            found = float(text) * unit_s
        except ValueError:
            found = math.nan
        if not 0 <= found < math.inf:
            self.fail(f"{value!r} is no stretch of time; give for example 90s, 30min, 6h or 7d", param, ctx)
        return found
