"""Which slots have a candidate in their shadow: what link wants, and what slots run. For drive's main thread."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from roadloop_agent.drive.shadow.host import Installed, Shadow
from roadloop_agent.ipc import ShadowSums, ShadowWish
from roadloop_models.contract.shadows import same_content

_LOG = logging.getLogger(__name__)
SAY_S = 1.0

OpenShadow = Callable[[str, Installed, Installed, float], Shadow]
"""(slot, candidate, incumbent, share of one core) -> a shadow that is not started."""


class Shadowed(Protocol):
    """A slot, as far as it concerns its shadow."""

    shadow: Shadow | None
    """Whom the slot's thread gives what it has decided about."""

    @property
    def incumbent(self) -> Installed | None:
        """The release that the slot runs; None where it runs none."""


@dataclass(frozen=True)
class _Wish:
    candidate: Installed
    max_cpu_share: float


class Shadows:
    """Starts, stops and tells of them."""

    def __init__(
        self,
        *,
        slots: Mapping[str, Shadowed],
        open_shadow: OpenShadow,
        strained: Callable[[], bool],
        say: Callable[[ShadowSums], None],
        clock: Callable[[], float],
        boot: int,
    ) -> None:
        """`strained`: whether the vehicle is too hot or too busy for what is not needed."""
        self._slots = slots
        self._open_shadow = open_shadow
        self._strained = strained
        self._say = say
        self._clock = clock
        self._boot = boot
        self._wishes: dict[str, _Wish] = {}
        self._say_due_s = clock()

    def want(self, wish: ShadowWish) -> None:
        """Link's word about one slot."""
        if wish.slot not in self._slots:
            _LOG.error("from link: there is no slot '%s'", wish.slot)
        elif wish.ref is None:
            self._wishes.pop(wish.slot, None)
        else:
            candidate = Installed(wish.ref, Path(wish.bundle_dir))
            self._wishes[wish.slot] = _Wish(candidate, wish.max_cpu_share)
        self.poll()

    def poll(self) -> None:
        """Make it so, and tell of each shadow once a second."""
        for name, slot in self._slots.items():
            self._settle(name, slot)
        now_s = self._clock()
        if now_s >= self._say_due_s:
            self._say_due_s = now_s + SAY_S
            self._tell()

    def stop(self) -> None:
        """End all of them."""
        self._wishes.clear()
        for slot in self._slots.values():
            if slot.shadow is not None:
                slot.shadow.stop()
                slot.shadow = None

    def _settle(self, name: str, slot: Shadowed) -> None:
        wish, incumbent, shadow = self._wishes.get(name), slot.incumbent, slot.shadow
        wanted = wish is not None and incumbent is not None and not same_content(wish.candidate.ref, incumbent.ref)
        if shadow is not None and not (wanted and _goes_on(shadow, wish, incumbent)):
            self._say(shadow.said(self._boot))
            shadow.stop()
            slot.shadow = shadow = None
        strained = self._strained()
        if wanted and shadow is None and not strained:  # loading two models is work, too
            assert wish is not None and incumbent is not None
            shadow = self._open_shadow(name, wish.candidate, incumbent, wish.max_cpu_share)
            shadow.start()
            slot.shadow = shadow
        if shadow is not None:
            shadow.paused = strained

    def _tell(self) -> None:
        for slot in self._slots.values():
            if slot.shadow is not None:
                self._say(slot.shadow.said(self._boot))


def _goes_on(shadow: Shadow, wish: _Wish | None, incumbent: Installed | None) -> bool:
    return wish is not None and shadow.candidate == wish.candidate and shadow.incumbent == incumbent
