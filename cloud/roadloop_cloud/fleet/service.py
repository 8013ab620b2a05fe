"""The fleet process: hears status, reports and fetch requests; publishes desired states and blocks; ticks rollouts.

One thread owns everything; the broker's events come in by one queue. Reports are acknowledged once they are committed.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from roadloop_cloud.campaigns import levels as campaign_levels
from roadloop_cloud.fleet import desired, intake
from roadloop_cloud.fleet.blocks import BlockServer
from roadloop_cloud.fleet.level import LevelPublisher
from roadloop_cloud.mqtt import Connected, Disconnected, Publication, Received, Transport
from roadloop_cloud.rollout.service import Rollouts
from roadloop_cloud.store.database import Database
from roadloop_cloud.store.fleet_tables import DesiredState
from roadloop_models.contract import channels
from roadloop_models.contract.channels import parse_topic
from roadloop_models.contract.codec import decode
from roadloop_models.contract.messages import Desired, FetchRequest, Policy, Reported, Status
from roadloop_models.errors import MessageError, RetryLaterError, RoadloopError
from roadloop_models.typed import from_builtins

_TICK_REST = 4.0
"""After a tick come at least so many times as long without one: what looks at a large fleet must leave time to hear
it."""
_PACE_KEPT_S = 10.0
FILTERS = tuple(channel.subscription() for channel in (channels.STATUS, channels.REPORTED, channels.FETCH))

_log = logging.getLogger(__name__)


class Director(Protocol):
    """The part of the director that is told what vehicles should run, and what they have seen of it."""

    def assign(self, vehicle: str, desired: Desired) -> int:
        """Name what a vehicle should run; the same again changes nothing."""
        ...

    def catch_up(self, vehicle: str, reported_version: int) -> None:
        """Overtake a vehicle that has seen a newer assignment."""
        ...


@dataclass(frozen=True)
class Timing:
    """How often things are looked at, and how much is under way at once."""

    tick_s: float = 0.5
    renew_s: float = 60.0
    retry_s: float = 0.5
    max_events: int = 200
    blocks_under_way: int = 32
    desired_under_way: int = 200


@dataclass
class _Inbox:
    """What was heard and is not committed yet: the newest of each vehicle, and the messages to acknowledge then."""

    statuses: dict[str, Status] = field(default_factory=dict)
    reports: dict[str, Reported] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)


class FleetService:
    """See the module."""

    def __init__(
        self,
        transport: Transport,
        database: Database,
        rollouts: Rollouts,
        blocks: BlockServer,
        renew_online: Callable[[], bool],
        *,
        director: Director,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`renew_online` signs snapshot and timestamp anew where it is time."""
        self._transport = transport
        self._database = database
        self._rollouts = rollouts
        self._blocks = blocks
        self._renew_online = renew_online
        self._director = director
        self._timing = timing or Timing()
        self._clock = clock
        self._inbox = _Inbox()
        self._sending: deque[Publication] = deque()
        self._tick_due_s = self._renew_due_s = clock()
        under_way = self._timing.desired_under_way
        self._levels = (
            # The director names what a vehicle should run before the vehicle hears of it and asks.
            LevelPublisher(
                transport, database, channels.DESIRED, desired.LEVELS, before=director.assign, under_way=under_way
            ),
            LevelPublisher(transport, database, channels.CAMPAIGNS, campaign_levels.LEVELS, under_way=under_way),
        )

    def run(self, stop: Event) -> None:
        """Work until `stop` is set."""
        while not stop.is_set():
            self.step(stop)

    def step(self, stop: Event) -> None:
        """One turn: what was heard, what is due, what may be sent."""
        self._hear()
        try:
            self._commit_inbox()
            begin_s = self._clock()
            if begin_s >= self._tick_due_s:
                self._rollouts.tick()
                for level in self._levels:
                    level.step()
                end_s = self._clock()
                self._tick_due_s = end_s + max(self._timing.tick_s, _TICK_REST * (end_s - begin_s))
        except (OperationalError, InterfaceError):
            _log.exception("the database does not answer; trying again")
            stop.wait(self._timing.retry_s)
        self._send_blocks()
        if self._clock() >= self._renew_due_s:
            self._renew_due_s = self._clock() + self._timing.renew_s
            self._renew()

    def _hear(self) -> None:
        wait_s = self._wait_s()
        for _ in range(self._timing.max_events):
            event = self._transport.next_event(wait_s)
            if event is None:
                return
            wait_s = 0.0
            if isinstance(event, Received):
                self._take(event)
            else:
                self._on_connection(event)

    def _wait_s(self) -> float:
        now_s = self._clock()
        due_s = max(0.0, self._tick_due_s - now_s)
        blocks_s = self._blocks.wait_s(now_s)
        if self._sending and blocks_s is not None:
            blocks_s = max(blocks_s, 0.002)  # the line is full: look again soon
        return due_s if blocks_s is None else min(due_s, blocks_s)

    def _on_connection(self, event: Connected | Disconnected) -> None:
        self._sending.clear()
        for level in self._levels:  # a broker that was killed has lost retained messages
            level.connection_changed(forget=isinstance(event, Connected))
        if isinstance(event, Disconnected):
            _log.warning("broker: %s", event.reason)
            return
        _log.info("connected to the broker, session %s", "resumed" if event.session_present else "new")
        try:
            self._transport.subscribe(FILTERS)
        except RetryLaterError as error:  # the connection went again; the next one repeats this
            _log.warning("%s", error)

    def _take(self, received: Received) -> None:
        try:
            address = parse_topic(received.topic)
            if address.channel is channels.STATUS:
                self._inbox.statuses[address.vehicle] = decode(channels.STATUS, received.payload, Status)
            elif address.channel is channels.REPORTED:
                self._inbox.reports[address.vehicle] = decode(channels.REPORTED, received.payload, Reported)
            elif address.channel is channels.FETCH:
                request = decode(channels.FETCH, received.payload, FetchRequest)
                self._blocks.request(address.vehicle, request, self._clock())
                self._transport.acknowledge(received)
                return
            else:
                raise MessageError(f"channel {address.channel.name} is none of the fleet service's")
        except MessageError as error:
            _log.warning("refused %.256s (%d bytes): %s", received.topic, len(received.payload), error)
        self._inbox.received.append(received)

    def _commit_inbox(self) -> None:
        """Write what was heard, then acknowledge it."""
        inbox = self._inbox
        if not inbox.received:
            return
        try:
            self._record(inbox.statuses, inbox.reports)
        except (OperationalError, InterfaceError):
            raise
        except SQLAlchemyError:  # one of them is more than the database takes: find out which
            for vehicle in inbox.statuses.keys() | inbox.reports.keys():
                self._record_alone(vehicle)
        self._inbox = _Inbox()
        self._catch_up(inbox.reports)
        for received in inbox.received:
            self._transport.acknowledge(received)

    def _catch_up(self, reports: Mapping[str, Reported]) -> None:
        for vehicle, report in reports.items():
            try:
                self._director.catch_up(vehicle, report.director_version)
            except (RoadloopError, OSError) as error:
                _log.warning("director of %s: %s", vehicle, error)

    def _record(self, statuses: dict[str, Status], reports: dict[str, Reported]) -> None:
        with self._database.transaction() as session:
            unknown = intake.record(session, statuses, reports)
        if unknown:
            _log.warning("not of this fleet: %s", ", ".join(sorted(unknown)))

    def _record_alone(self, vehicle: str) -> None:
        def only(heard: dict[str, Status] | dict[str, Reported]) -> dict[str, object]:
            return {vehicle: heard[vehicle]} if vehicle in heard else {}

        try:
            self._record(only(self._inbox.statuses), only(self._inbox.reports))  # type: ignore[arg-type]
        except (OperationalError, InterfaceError):
            raise
        except SQLAlchemyError:
            _log.exception("what %s says cannot be stored; dropped", vehicle)

    def _send_blocks(self) -> None:
        while self._sending and self._sending[0].is_published():
            self._sending.popleft()
        while len(self._sending) < self._timing.blocks_under_way:
            outgoing = self._blocks.next_block(self._clock())
            if outgoing is None:
                return
            try:
                channel = channels.FLEET_FILE if outgoing.vehicle == channels.FLEET else channels.FILE
                self._sending.append(
                    self._transport.publish(
                        channel, outgoing.vehicle, outgoing.block, sha256=outgoing.sha256, n=outgoing.n
                    )
                )
            except RetryLaterError:
                return  # not connected: the vehicle asks again when it is

    def _renew(self) -> None:
        try:
            if self._renew_online():
                _log.info("signed snapshot and timestamp anew")
        except (RoadloopError, OSError):
            _log.exception("signing snapshot and timestamp anew failed; trying again in %.0f s", self._timing.renew_s)


def pace_of(
    database: Database, default_bytes_per_s: int, clock: Callable[[], float] = time.monotonic
) -> Callable[[str], int]:
    """How fast a vehicle may be sent blocks: as its policy says (or said some seconds ago), or the default."""
    known: dict[str, tuple[float, int]] = {}

    def pace(vehicle: str) -> int:
        now_s = clock()
        until_s, bytes_per_s = known.get(vehicle, (-math.inf, 0))
        if now_s >= until_s:
            with database.reading() as session:
                raw = session.scalar(select(DesiredState.policy).where(DesiredState.vehicle == vehicle))
            policy = Policy() if raw is None else from_builtins(raw, Policy)
            bytes_per_s = policy.fetch_bytes_per_s or default_bytes_per_s
            known[vehicle] = (now_s + _PACE_KEPT_S, bytes_per_s)
        return bytes_per_s

    return pace
