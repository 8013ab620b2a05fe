"""Keeps the count of traffic in step with the clocks, the connection and the disk."""

import logging
from collections.abc import Callable

from roadloop_agent.link.budget import LinkClass, Traffic, TrafficView
from roadloop_models.errors import DiskFullError

_LOG = logging.getLogger(__name__)


class Metering:
    """Belongs to the owner's thread."""

    def __init__(
        self,
        traffic: Traffic,
        classify: Callable[[str], tuple[LinkClass, str | None]],
        keep: Callable[[dict[str, float]], None],
        mono: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`classify`: the broker's address -> class and interface of the link; `keep` remembers facts durably.

        `mono` counts suspended time as well.
        """
        self._traffic = traffic
        self._classify = classify
        self._keep = keep
        self._mono = mono
        self._wall = wall

    def connected(self, address: str) -> None:
        """A connection to the broker at that address is open."""
        link_class, interface = self._classify(address)
        _LOG.info("the link over %s is %s", interface or "an unknown interface", link_class)
        self._traffic.use(link_class, interface)

    def tick(self) -> None:
        """Time has passed."""
        self._traffic.tick(self._mono(), self._wall())

    def settle(self, ended: bool = False) -> None:
        """Write the count down where it has to be before what was decided goes out; at the end, exactly."""
        if not ended and not self._traffic.is_unsaved():
            return
        try:
            self._keep(self._traffic.facts(ended))
        except DiskFullError as error:
            _LOG.error("the count of bytes is not remembered: %s", error)

    def view(self) -> TrafficView:
        """The link as `status` shows it."""
        return self._traffic.view()
