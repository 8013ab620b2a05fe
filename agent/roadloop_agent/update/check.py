"""When the director is asked although nothing new was heard: how a vehicle notices that somebody keeps news from it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from roadloop_agent.update.store import error_info
from roadloop_models.contract.messages import ErrorInfo
from roadloop_models.errors import RoadloopError

if TYPE_CHECKING:
    from roadloop_agent.update.director import Assignment

_LOG = logging.getLogger(__name__)
PERIOD_S = 6 * 3600.0
LEAST_S = 60.0
SPREAD_S = 10.0
RETRY_S = 900.0


class CheckSchedule:
    """Pure. Every few hours, and soon after each connection and desired state, at most once a minute.

    `random` in [0, 1): a fleet that comes back at one instant must not ask at one instant.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._checked_s: float | None = None
        self._due_s: float | None = None

    def soon(self, now_s: float) -> None:
        """There is a new connection, or a new desired state."""
        soon_s = now_s + SPREAD_S * self._random()
        if self._checked_s is not None:
            soon_s = max(soon_s, self._checked_s + LEAST_S)
        self._due_s = soon_s if self._due_s is None else min(self._due_s, soon_s)

    def take(self, now_s: float) -> bool:
        """Whether to ask now; then the next time is set."""
        if self._due_s is None or now_s < self._due_s:
            return False
        self._checked_s, self._due_s = now_s, now_s + PERIOD_S * (0.75 + 0.5 * self._random())
        return True

    def failed(self, now_s: float) -> None:
        """Nobody answered, or not as they should."""
        retry_s = now_s + RETRY_S * (0.75 + 0.5 * self._random())
        self._due_s = retry_s if self._due_s is None else min(self._due_s, retry_s)


class DirectorCheck:
    """Asks the director when it is time, and tells what came of every asking: the newest version that was verified, and
    what is wrong."""

    def __init__(
        self,
        look: Callable[[], int],
        refresh: "Callable[[], Assignment]",
        tell: Callable[[int, ErrorInfo | None], None],
        schedule: CheckSchedule,
        *,
        mono: Callable[[], float],
        version: int = 0,
    ) -> None:
        """`look`: the version of the newest assignment; `version`: of the newest that was seen before this start."""
        self._look = look
        self._refresh = refresh
        self._tell = tell
        self._schedule = schedule
        self._mono = mono
        self._version = version
        tell(version, None)

    def soon(self) -> None:
        """There is a new connection, or a new desired state; from any thread."""
        self._schedule.soon(self._mono())

    def is_due(self) -> bool:
        """Whether `run` should be called now; asked by one thread."""
        return self._schedule.take(self._mono())

    def run(self) -> None:
        """Look for news, because it is time."""
        try:
            with self._telling():
                self._version = self._look()
        except RoadloopError as error:
            _LOG.warning("the director: %s", error)
            self._schedule.failed(self._mono())
        except Exception:  # noqa: BLE001 (no memory for a process, a fault of the agent: the worker goes on)
            _LOG.exception("the director")
            self._schedule.failed(self._mono())

    def assignment(self) -> "Assignment":
        """Ask, because something is to be fetched. Raises what Director.refresh raises."""
        with self._telling():
            assignment = self._refresh()
            self._version = assignment.version
        return assignment

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._tell(self._version, error_info(error))
            raise
        self._tell(self._version, None)
