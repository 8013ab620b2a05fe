"""What may go over the present link: all or highlights only, and so many bytes a day. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from roadloop_models.day import DAY_S, Day

LinkClass = Literal["metered", "unmetered"]
PACKET_BYTES = 16
"""What MQTT adds to topic and payload: headers, and the acknowledgement. TLS and TCP are not counted."""
_MIN_RESERVE_BYTES, _MAX_RESERVE_BYTES = 4 << 10, 1 << 20


class Limits(Protocol):
    """The limits of a class of links (`[network.on_metered]`)."""

    @property
    def bytes_per_day(self) -> int:
        """0: no limit."""

    @property
    def sends(self) -> Literal["all", "highlights"]:
        """Whether everything goes or highlights only."""


@dataclass(frozen=True)
class TrafficView:
    """The link as `status` shows it."""

    link_class: LinkClass
    interface: str | None
    sends: str
    bytes_per_day: int
    spent_bytes: int
    day_ends_in_s: float


class Traffic:
    """Which class of link this is, and what it has carried today. Owned by one thread."""

    def __init__(self, limits: Mapping[LinkClass, Limits], facts: Mapping[str, float]) -> None:
        """`facts`: what `facts()` gave at the end of the last process; empty at the first start."""
        self._limits = limits
        self._spent = {name: int(facts.get(f"spent_bytes.{name}", 0)) for name in limits}
        self._saved = dict(self._spent)
        self._day = Day(facts)
        self._class: LinkClass = "unmetered"
        self._interface: str | None = None

    def use(self, link_class: LinkClass, interface: str | None) -> None:
        """A connection goes over this link."""
        self._class, self._interface = link_class, interface

    def tick(self, mono_s: float, wall_s: float) -> None:
        """Time has passed; `mono_s` counts suspended time as well (CLOCK_BOOTTIME)."""
        if self._day.tick(mono_s, wall_s):
            self._spent = dict.fromkeys(self._spent, 0)
            self._saved = dict.fromkeys(self._saved, -1)

    def spend(self, size_bytes: int) -> None:
        """A message of so many bytes (topic and payload) went or came."""
        self._spent[self._class] += size_bytes + PACKET_BYTES

    def has_room(self, size_bytes: int) -> bool:
        """Whether telemetry of that size may go now."""
        limit = self._limits[self._class].bytes_per_day
        return not limit or self._spent[self._class] + size_bytes + PACKET_BYTES <= limit

    @property
    def link_class(self) -> LinkClass:
        """Of the present link, or the last where there is none. May be asked from any thread."""
        return self._class

    @property
    def highlights_only(self) -> bool:
        """Whether the rest waits for another link."""
        return self._limits[self._class].sends == "highlights"

    def is_unsaved(self) -> bool:
        """Whether more was spent than the last `facts` said."""
        return any(self._spent[name] > self._saved[name] for name in self._spent)

    def facts(self, ended: bool = False) -> dict[str, float]:
        """What the next process has to know, durably, before more is sent.

        Until a clean end they say a little more than was spent, so that they need not be written for every message and
        a kill frees nothing.
        """
        for name, limits in self._limits.items():
            limit = limits.bytes_per_day
            reserve = max(_MIN_RESERVE_BYTES, min(limit // 64, _MAX_RESERVE_BYTES)) if limit else 8 * _MAX_RESERVE_BYTES
            self._saved[name] = self._spent[name] + (0 if ended else reserve)
        facts = {f"spent_bytes.{name}": float(saved) for name, saved in self._saved.items()}
        return {**facts, **self._day.facts()}

    def view(self) -> TrafficView:
        """The link as `status` shows it."""
        limits = self._limits[self._class]
        return TrafficView(
            link_class=self._class,
            interface=self._interface,
            sends=limits.sends,
            bytes_per_day=limits.bytes_per_day,
            spent_bytes=self._spent[self._class],
            day_ends_in_s=round(DAY_S - self._day.age_s),
        )
