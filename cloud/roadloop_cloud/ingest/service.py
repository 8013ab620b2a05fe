"""The ingest process: takes messages, commits them in groups, then acknowledges them, then moves the cursors.

That order is what makes nothing acknowledged be lost: a kill between any two steps leaves messages that come again, and
the ledger knows them.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from roadloop_cloud.ingest.blobs import BlobFolder
from roadloop_cloud.ingest.commit import GroupResult, Rejection, commit_group, record_rejections
from roadloop_cloud.ingest.consumer import Item, decode_item
from roadloop_cloud.ingest.cursors import CursorPublisher
from roadloop_cloud.mqtt import Connected, Disconnected, Received, Transport
from roadloop_cloud.store.database import Database
from roadloop_models.contract import channels
from roadloop_models.errors import MessageError, RetryLaterError, RoadloopError

SHARE = "$share/ingest/"
_TAKEN = (channels.TELEMETRY, channels.LOST, channels.BLOB, channels.SKETCH)
FILTERS = tuple(SHARE + channel.subscription() for channel in _TAKEN)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grouping:
    """How many messages one transaction takes, and how long the first of them may wait for the others."""

    max_messages: int = 200
    window_s: float = 0.1
    retry_s: float = 0.5
    idle_s: float = 0.5


@dataclass
class Counters:
    """What this process did since it started."""

    messages: int = 0
    groups: int = 0
    rejected: int = 0


class IngestService:
    """One of any number of ingest processes on the same broker and database."""

    def __init__(
        self,
        transport: Transport,
        database: Database,
        blobs: BlobFolder,
        *,
        announce_all: bool = False,
        grouping: Grouping | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`announce_all`: at each connection publish every vehicle's cursor and drop stale blocks; one process does."""
        self._transport = transport
        self._database = database
        self._blobs = blobs
        self._announce_all = announce_all
        self._grouping = grouping or Grouping()
        self._clock = clock
        self._cursors = CursorPublisher(database, transport)
        self.counters = Counters()

    def run(self, stop: Event) -> None:
        """Work until `stop` is set; what was not committed by then is sent again to the next one."""
        while not stop.is_set():
            self.step(stop)

    def step(self, stop: Event) -> None:
        """One turn: a group of messages if there are any, and the cursors that are due."""
        group = self._collect()
        if group:
            self._take(group, stop)
        try:
            self._cursors.publish_due(self._clock())
        except SQLAlchemyError:
            _log.exception("cursors stay due: the database does not answer")
            stop.wait(self._grouping.retry_s)

    def _collect(self) -> list[Received]:
        group: list[Received] = []
        cursor_s = self._cursors.wait_s(self._clock())
        wait_s = self._grouping.idle_s if cursor_s is None else min(cursor_s, self._grouping.idle_s)
        until_s = self._clock() + wait_s
        while len(group) < self._grouping.max_messages:
            event = self._transport.next_event(max(0.0, until_s - self._clock()))
            if event is None:
                break
            if isinstance(event, Received):
                if not group:
                    until_s = self._clock() + self._grouping.window_s
                group.append(event)
            else:
                self._on_connection(event)
        return group

    def _on_connection(self, event: Connected | Disconnected) -> None:
        if isinstance(event, Disconnected):
            _log.warning("broker: %s", event.reason)
            return
        _log.info("connected to the broker, session %s", "resumed" if event.session_present else "new")
        try:
            self._transport.subscribe(FILTERS)
            if self._announce_all:
                self._cursors.touch_all(self._clock())
                with self._database.transaction() as session:
                    self._blobs.discard_stale(session)
        except (RetryLaterError, SQLAlchemyError) as error:  # the next connection repeats this
            _log.warning("after connecting: %s", error)

    def _take(self, group: list[Received], stop: Event) -> None:
        items: list[tuple[Received, Item]] = []
        rejections: list[Rejection] = []
        for received in group:
            try:
                items.append((received, decode_item(received.topic, received.payload, received.packet_bytes)))
            except MessageError as error:
                rejections.append(_rejection(received, error))
        if not self._commit(items, rejections, stop):
            return
        for received in group:
            self._transport.acknowledge(received)
        self.counters.messages += len(group)

    def _commit(self, items: list[tuple[Received, Item]], rejections: list[Rejection], stop: Event) -> bool:
        """Commit all; where the database does not answer, again until it does. False where `stop` came first."""
        while not stop.is_set():
            try:
                self._commit_once(items, rejections)
                return True
            except (OperationalError, InterfaceError, OSError):
                _log.exception("the group of %d waits: the database or its disk does not answer", len(items))
                stop.wait(self._grouping.retry_s)
            except SQLAlchemyError as error:
                if not items:
                    _log.exception("%d rejections go unrecorded", len(rejections))
                    return True
                if len(items) == 1:
                    refused = [_rejection(received, MessageError(f"the database: {error}")) for received, _ in items]
                    items, rejections = [], rejections + refused
                    continue
                _log.warning("one of %d messages is refused by the database: taking them one by one", len(items))
                return all(self._commit([item], [], stop) for item in items) and self._commit([], rejections, stop)
        return False

    def _commit_once(self, items: list[tuple[Received, Item]], rejections: list[Rejection]) -> None:
        result = GroupResult()
        with self._database.transaction() as session:
            if items:
                result = commit_group(session, [item for _, item in items], self._blobs)
            refused = [_rejection(items[index][0], error) for index, error in result.refused.items()]
            if rejections or refused:
                record_rejections(session, rejections + refused)
        self.counters.groups += 1
        self.counters.rejected += len(rejections) + len(refused)
        for rejection in (*rejections, *refused):
            _log.warning("refused %.256s (%d bytes): %s", rejection.topic, rejection.size_bytes, rejection.error)
        self._cursors.touch(result.touched, self._clock())


def _rejection(received: Received, error: RoadloopError) -> Rejection:
    return Rejection(received.topic, len(received.payload), error)
