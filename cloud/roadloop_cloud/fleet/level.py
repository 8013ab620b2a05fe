"""Publishes levels, retained, whenever the broker may not have the newest."""

import logging
from collections.abc import Callable
from typing import Any, Generic

from roadloop_cloud.mqtt import Publication, Transport
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.levels import Levels, LevelT
from roadloop_models.contract.channels import Channel
from roadloop_models.errors import RoadloopError

_log = logging.getLogger(__name__)


class LevelPublisher(Generic[LevelT]):
    """Publishes the levels of one channel. One thread owns it."""

    def __init__(
        self,
        transport: Transport,
        database: Database,
        channel: Channel,
        rows: Levels[LevelT],
        *,
        before: Callable[[str, LevelT], Any] = lambda _vehicle, _level: None,
        under_way: int,
    ) -> None:
        """`before` is done before a vehicle hears of its level; it may raise RoadloopError or OSError, then the vehicle
        hears of it later."""
        self._transport = transport
        self._database = database
        self._channel = channel
        self._rows = rows
        self._before = before
        self._under_way = under_way
        self._publishing: dict[str, tuple[int, Publication]] = {}
        self._forget = False

    def connection_changed(self, *, forget: bool) -> None:
        """What was under way is not any more; with `forget` the broker may have lost what it had."""
        self._publishing.clear()
        self._forget = self._forget or forget

    def step(self) -> None:
        """Publish what the broker does not have, and remember what it has taken."""
        taken = {vehicle: version for vehicle, (version, sent) in self._publishing.items() if sent.is_published()}
        if taken or self._forget:
            with self._database.transaction() as session:
                if self._forget:
                    self._rows.forget_published(session)
                self._rows.mark_published(session, taken)
            self._forget = False
        for vehicle in taken:
            del self._publishing[vehicle]
        if not self._transport.connected:
            return
        with self._database.reading() as session:
            due = self._rows.unpublished(session, self._under_way)
        for vehicle, level in due:
            under_way = self._publishing.get(vehicle)
            if under_way is not None and under_way[0] == level.version:
                continue
            try:
                self._before(vehicle, level)
                sent = self._transport.publish(self._channel, vehicle, level)
            except (RoadloopError, OSError) as error:
                _log.warning("%s of %s: %s", self._channel.name, vehicle, error)
            else:
                self._publishing[vehicle] = level.version, sent
