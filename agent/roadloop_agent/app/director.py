"""The client of the director, and the process that asks the director for link.

Link imports this only when there is an assignment to read: python-tuf and its cryptography take 7 MB.
"""

import time
from datetime import UTC, datetime

from roadloop_agent.config import Config
from roadloop_agent.update.apart import answer
from roadloop_agent.update.director import Director
from roadloop_agent.update.glance import Fetcher
from roadloop_agent.update.trusted_time import TrustedTime


def open_director(config: Config, fetcher: Fetcher, told: TrustedTime) -> Director:
    """This vehicle's client, with what it remembers."""
    return Director(config.state_dir / "director", config.directory / "trust", config.vehicle_id, fetcher, told)


def answer_apart(config: Config) -> None:
    """The process that asks the director for link, which fetches for it."""

    def make(fetcher: Fetcher, told: datetime | None) -> tuple[Director, TrustedTime]:
        clock = TrustedTime(lambda: datetime.now(UTC), time.monotonic)
        if told is not None:
            clock.told(told)
        return open_director(config, fetcher, clock), clock

    answer(make)
