"""The vehicle's side of the conversation with the cloud, without I/O: what happened and the time go in, what to publish
comes out.

A PUBACK says that the broker has a message in memory, no more. A batch therefore stays *in flight* from its
publication until the cloud's cursor covers it; one that is not covered in time is sent again. Nothing is published
while disconnected, and what one connection left unanswered is simply published again on the next: the spool is the
only queue.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from roadloop_agent.link.budget import Traffic
from roadloop_agent.link.spool import Held
from roadloop_models.contract import channels
from roadloop_models.contract.channels import Channel
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import (
    Command,
    FetchRequest,
    Lost,
    LostRange,
    Message,
    Reply,
    Reported,
    Status,
)

SUBSCRIPTIONS = (channels.DESIRED, channels.COMMAND, channels.CAMPAIGNS, channels.CURSOR, channels.FILE)
_FOR_ALL = f"{channels.ROOT}/{channels.FLEET}/"
_COMMANDS_REMEMBERED = 64
_OUTBOX_LIMIT = 64
_OVERDUE_LIMIT = 512
_RESERVED = 4
"""Of what the broker receives at a time: kept for messages that are not telemetry."""


class Backlog(Protocol):
    """The part of the spool that a session reads."""

    def pending(self, limit: int, skip: Collection[int] = (), highlights_only: bool = False) -> list[Held]:
        """Rows that are not committed, without those in `skip`: highlights first, otherwise the oldest first."""

    def lost(self, limit: int = 256) -> list[LostRange]:
        """Ranges declared lost that the cursor does not cover yet."""


@dataclass(frozen=True)
class SessionLimits:
    """How the session goes about it."""

    reconnect_min_s: float = 0.5
    reconnect_max_s: float = 60.0
    window: int = 64
    """Batches in flight."""
    resend_s: float = 20.0
    """How long after its PUBACK a batch may stay uncovered; doubles while the cursor does not move at all."""
    resend_max_s: float = 300.0
    connect_timeout_s: float = 30.0
    puback_timeout_s: float = 45.0
    report_min_s: float = 0.25
    """Reports that follow each other faster become one."""
    hold_s: float = 10.0
    """How long telemetry waits for drive's first word: while drive loads its models, a backlog leaves it in peace."""
    frugal_resend_s: float = 1800.0
    """On a link that sends highlights only, how soon lost ranges are said again at the earliest."""


@dataclass(frozen=True)
class Connect:
    """Open a connection; answered by `connected` or `disconnected`."""


@dataclass(frozen=True)
class Disconnect:
    """Drop the connection: it does not work any more."""

    reason: str


@dataclass(frozen=True)
class Publish:
    """Publish one message. With QoS 1 the PUBACK comes back as `acked(token)`."""

    token: int
    topic: str
    payload: bytes
    qos: int
    retain: bool


@dataclass(frozen=True)
class Subscribe:
    """Receive a topic filter too, at QoS 0."""

    pattern: str


@dataclass(frozen=True)
class Unsubscribe:
    """Receive it no more."""

    pattern: str


Action: TypeAlias = Connect | Disconnect | Publish | Subscribe | Unsubscribe


@dataclass(frozen=True)
class _Flight:
    published_s: float
    token: int
    acked_s: float | None = None


@dataclass(frozen=True)
class SessionView:
    """The session as `status` shows it."""

    connected: bool
    connections: int
    in_flight: int
    resent: int
    last_error: str


class Session:
    """One vehicle's conversation over any number of connections. Owned by one thread."""

    def __init__(
        self,
        vehicle: str,
        session_id: str,
        *,
        backlog: Backlog,
        random: Callable[[], float],
        traffic: Traffic,
        limits: SessionLimits = SessionLimits(),
    ) -> None:
        """`random` gives numbers in [0, 1): the jitter that keeps a fleet from coming back at one instant.

        `traffic` says what the present link may carry, and hears of every message.
        """
        self._vehicle = vehicle
        self._backlog = backlog
        self._random = random
        self._traffic = traffic
        self._limits = limits
        self._held_until_s: float | None = None
        self._status = Status(online=True, session=session_id)
        self._reported: Reported | None = None
        self._connected = False
        self._since_s: float | None = None  # of the connection, or of the attempt to make one
        self._next_attempt_s = 0.0
        self._failures = 0
        self._receive_maximum = 1
        self._token = 0
        self._unacked: dict[int, float] = {}
        self._flights: dict[int, _Flight] = {}
        self._overdue: set[int] = set()
        self._resend_s = limits.resend_s
        self._status_due = False
        self._report_due_s: float | None = None
        self._reported_at_s = -limits.report_min_s
        self._lost_sent: dict[LostRange, float] = {}
        self._outbox: deque[Publish] = deque(maxlen=_OUTBOX_LIMIT)
        self._heard: str | None = None
        self._interest: list[Subscribe | Unsubscribe] = []
        self._commands: deque[str] = deque(maxlen=_COMMANDS_REMEMBERED)
        self._connections = 0
        self._resent = 0
        self._last_error = ""

    # What happened.

    def connected(self, receive_maximum: int, session_present: bool, now_s: float) -> None:
        """A connection is open and subscribed; the broker takes `receive_maximum` unacknowledged messages.

        A broker that has no memory of this session may have lost what it acknowledged too: that is sent again.
        """
        self._connected, self._since_s = True, now_s
        if not session_present:
            self._flights.clear()
        self._receive_maximum = receive_maximum
        self._connections += 1
        self._last_error = ""
        self._status_due = True
        self._report_due_s = now_s
        self._lost_sent.clear()
        self._interest = [] if self._heard is None else [Subscribe(self._heard)]

    def disconnected(self, reason: str, now_s: float) -> None:
        """The connection, or the attempt to make one, has ended. What had no PUBACK is sent again on the next."""
        if self._since_s is None:
            return
        self._connected, self._since_s = False, None
        self._last_error = reason
        self._flights = {key: flight for key, flight in self._flights.items() if flight.acked_s is not None}
        self._unacked.clear()
        self._outbox.clear()
        self._interest.clear()
        ceiling_s = min(self._limits.reconnect_max_s, self._limits.reconnect_min_s * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._next_attempt_s = now_s + ceiling_s * (0.5 + 0.5 * self._random())

    def resumed(self, now_s: float) -> None:
        """The vehicle was suspended: what failed before says nothing about now."""
        self._failures, self._next_attempt_s = 0, now_s

    def acked(self, token: int, now_s: float) -> None:
        """The broker has answered a publication: the connection works in both directions."""
        self._failures = 0
        self._unacked.pop(token, None)
        for key, flight in self._flights.items():
            if flight.token == token:
                self._flights[key] = replace(flight, acked_s=now_s)
                return

    def committed(self, rows: Collection[int], everything_again: bool) -> None:
        """The cursor has moved over these rows; with a new ledger epoch nothing counts as sent."""
        if rows or everything_again:
            self._resend_s = self._limits.resend_s
        self._flights = {
            key: flight for key, flight in self._flights.items() if not everything_again and key not in rows
        }
        self._overdue -= set(rows)
        if everything_again:
            self._lost_sent.clear()

    def received(self, topic: str, payload: bytes) -> None:
        """A message of the cloud has come: it counts like one that is sent.

        The broker remembers what an agent that was killed wanted to hear: what nobody waits for is ended.
        """
        self.spent(len(topic) + len(payload))
        if topic.startswith(_FOR_ALL):
            stray = Unsubscribe(f"{topic.rpartition('/')[0]}/+")
            if stray.pattern != self._heard and stray not in self._interest:
                self._interest.append(stray)

    def spent(self, size_bytes: int) -> None:
        """So many bytes came or went, here or beside this connection."""
        self._traffic.spend(size_bytes)

    def command(self, command: Command, now_s: float) -> None:
        """A thing to do once; a redelivered one is not done again."""
        if command.id in self._commands:
            return
        self._commands.append(command.id)
        if command.kind == "resend":
            self._flights = {key: flight for key, flight in self._flights.items() if flight.acked_s is None}
            self._lost_sent.clear()
        elif command.kind == "report":
            self._report_due_s = now_s
        self.send(channels.REPLY, Reply(id=command.id, ok=True))

    # What to say.

    def set_boot(self, boot: int, agent_version: str, hardware: str) -> None:
        """Drive has said hello."""
        status = Status(
            online=True, session=self._status.session, boot=boot, agent_version=agent_version, hardware=hardware
        )
        self._status_due = self._status_due or status != self._status
        self._status = status

    def set_reported(self, reported: Reported, now_s: float) -> None:
        """The vehicle's word about itself; published when it changes and at every connection."""
        if reported != self._reported:
            self._reported = reported
            due_s = max(now_s, self._reported_at_s + self._limits.report_min_s)
            self._report_due_s = due_s if self._report_due_s is None else self._report_due_s

    def send(self, channel: Channel, message: FetchRequest | Reply) -> None:
        """Publish at the next poll; dropped where there is no connection (whoever asked will ask again)."""
        if self._connected:
            self._outbox.append(self._publish(channel, message))

    def hear(self, sha256: str | None) -> None:
        """Hear this content where it is sent to all who wait for it, and no other; None: none."""
        pattern = None if sha256 is None else channels.for_all_filter(sha256)
        if self._connected and pattern != self._heard:
            self._interest += [] if self._heard is None else [Unsubscribe(self._heard)]
            self._interest += [] if pattern is None else [Subscribe(pattern)]
        self._heard = pattern

    def will(self) -> Publish:
        """What the broker says for the vehicle when the connection breaks."""
        return self._publish(channels.STATUS, _offline(self._status))

    def farewell(self) -> list[Action]:
        """What to publish before a clean stop."""
        return [self.will()] if self._connected else []

    # What follows.

    def poll(self, now_s: float) -> list[Action]:
        """Everything to do at `now_s`."""
        if self._held_until_s is None:
            self._held_until_s = now_s + self._limits.hold_s
        if not self._connected:
            return self._poll_disconnected(now_s)
        oldest_s = min(self._unacked.values(), default=now_s)
        if now_s - oldest_s > self._limits.puback_timeout_s:
            return [Disconnect(f"no PUBACK for {now_s - oldest_s:.0f} s")]
        actions: list[Action] = []
        if self._status_due:
            self._status_due = False
            actions.append(self._publish(channels.STATUS, self._status))
        if self._reported is not None and self._report_due_s is not None and now_s >= self._report_due_s:
            self._report_due_s, self._reported_at_s = None, now_s
            actions.append(self._publish(channels.REPORTED, self._reported))
        actions += self._interest  # before what is asked for: the answers may come there
        self._interest.clear()
        while self._outbox:
            actions.append(self._outbox.popleft())
        actions += self._declare_lost(now_s)
        for action in actions:
            if isinstance(action, Publish):
                self._unacked[action.token] = now_s
                self._traffic.spend(len(action.topic) + len(action.payload))
            elif isinstance(action, Subscribe | Unsubscribe):
                self._traffic.spend(len(action.pattern))
        return actions + self._publish_batches(now_s)

    def next_poll_s(self, now_s: float) -> float:
        """How long nothing will follow from the passing of time alone."""
        due = [now_s + 1.0]
        if not self._connected and self._since_s is None:
            due.append(self._next_attempt_s)
        if self._connected and self._reported is not None and self._report_due_s is not None:
            due.append(self._report_due_s)
        return max(0.0, min(due) - now_s)

    def view(self) -> SessionView:
        """The session as `status` shows it."""
        return SessionView(self._connected, self._connections, len(self._flights), self._resent, self._last_error)

    def _poll_disconnected(self, now_s: float) -> list[Action]:
        if self._since_s is not None:
            if now_s - self._since_s > self._limits.connect_timeout_s:
                return [Disconnect(f"no answer to CONNECT for {now_s - self._since_s:.0f} s")]
            return []
        if now_s < self._next_attempt_s:
            return []
        self._since_s = now_s
        return [Connect()]

    def _declare_lost(self, now_s: float) -> list[Action]:
        """Publish lost ranges that are new, or that the cursor has not covered for a while."""
        ranges = self._backlog.lost()
        resend_s = max(self._resend_s, self._limits.frugal_resend_s if self._traffic.highlights_only else 0.0)
        sent_s = {entry: self._lost_sent[entry] for entry in ranges if entry in self._lost_sent}
        due = [entry for entry in ranges if now_s - sent_s.get(entry, -resend_s) >= resend_s]
        self._lost_sent = sent_s | dict.fromkeys(due, now_s)
        return [self._publish(channels.LOST, Lost(ranges=tuple(due)))] if due else []

    def _publish_batches(self, now_s: float) -> list[Action]:
        self._expire(now_s)
        room = min(self._limits.window - len(self._flights), self._receive_maximum - _RESERVED - len(self._unacked))
        if room <= 0:
            return []
        if self._status.boot == 0 and self._held_until_s is not None and now_s < self._held_until_s:
            return []
        actions: list[Action] = []
        for row in self._due_rows(room):
            topic = row.topic(self._vehicle)
            size_bytes = len(topic) + len(row.payload)
            if not self._traffic.has_room(size_bytes):
                break
            self._traffic.spend(size_bytes)
            channel = channels.TELEMETRY if row.item is None else channels.BLOB
            self._token += 1
            self._flights[row.id] = _Flight(now_s, self._token)
            self._unacked[self._token] = now_s
            actions.append(Publish(self._token, topic, row.payload, channel.qos, channel.retained))
        return actions

    def _due_rows(self, room: int) -> list[Held]:
        """At most `room` rows that are not in flight; those that are overdue come last."""
        only = self._traffic.highlights_only
        rows = self._backlog.pending(room, {*self._flights, *self._overdue}, only)
        if len(rows) < room and self._overdue:
            rows += self._backlog.pending(room - len(rows), {*self._flights, *(row.id for row in rows)}, only)
        return rows

    def _expire(self, now_s: float) -> None:
        """Forget flights that were not covered in time: their rows, where still pending, are sent again.

        They come after what was never sent: a batch that the cloud cannot take must not stand before all others.
        """
        expired = [
            key
            for key, flight in self._flights.items()
            if flight.acked_s is not None and now_s - flight.acked_s >= self._resend_s
        ]
        if expired:
            self._resent += len(expired)
            self._resend_s = min(self._limits.resend_max_s, 2 * self._resend_s)
        for key in expired:
            del self._flights[key]
        if len(self._overdue) > _OVERDUE_LIMIT:
            self._overdue.clear()
        self._overdue.update(expired)

    def _publish(self, channel: Channel, message: Message) -> Publish:
        self._token += 1
        payload = encode(channel, message)
        return Publish(self._token, channel.topic(self._vehicle), payload, channel.qos, channel.retained)


def _offline(status: Status) -> Status:
    """The same vehicle, offline."""
    return Status(
        online=False,
        session=status.session,
        boot=status.boot,
        agent_version=status.agent_version,
        hardware=status.hardware,
    )
