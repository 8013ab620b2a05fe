"""The session, without a socket: what it publishes, when, and what it sends again."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.link.budget import Traffic
from roadloop_agent.link.session import (
    Action,
    Connect,
    Disconnect,
    Publish,
    Session,
    SessionLimits,
    Subscribe,
    Unsubscribe,
)
from roadloop_agent.link.spool import Held
from roadloop_models.contract import channels
from roadloop_models.contract.channels import parse_topic
from roadloop_models.contract.codec import decode
from roadloop_models.contract.messages import (
    Command,
    FetchRequest,
    Lost,
    LostRange,
    Reply,
    Reported,
    Status,
)

VEHICLE = "van-1"
LIMITS = SessionLimits(window=8, resend_s=20.0, hold_s=0.0)


@dataclass(frozen=True)
class Limits:
    """What `[network]` says of a class of links."""

    bytes_per_day: int = 0
    sends: Literal["all", "highlights"] = "all"


def free() -> Traffic:
    """A link that carries everything."""
    return Traffic({"metered": Limits(sends="highlights"), "unmetered": Limits()}, {})


@dataclass
class FakeBacklog:
    """The spool as a session sees it."""

    rows: dict[int, Held] = field(default_factory=dict)
    ranges: list[LostRange] = field(default_factory=list)
    committed: set[int] = field(default_factory=set)
    highlights: set[int] = field(default_factory=set)

    def fill(self, count: int, highlight: bool = False) -> None:
        for _ in range(count):
            key = len(self.rows) + 1
            if highlight:
                self.highlights.add(key)
            self.rows[key] = Held(key, 1, "health", key, key, None, None, f"batch {key}".encode())

    def commit(self, session: Session, payloads: set[bytes]) -> None:
        """The cursor covers the rows with these payloads."""
        rows = {key for key, row in self.rows.items() if row.payload in payloads}
        self.committed |= rows
        session.committed(rows, False)

    def pending(self, limit: int, skip: Collection[int] = (), highlights_only: bool = False) -> list[Held]:
        skip = {*skip, *self.committed, *(self.rows.keys() - self.highlights if highlights_only else ())}
        keys = sorted(self.rows.keys() - skip, key=lambda key: (key not in self.highlights, key))
        return [self.rows[key] for key in keys][:limit]

    def lost(self, limit: int = 256) -> list[LostRange]:
        return self.ranges[:limit]


def make(
    backlog: FakeBacklog | None = None,
    random: float = 1.0,
    limits: SessionLimits = LIMITS,
    traffic: Traffic | None = None,
) -> Session:
    return Session(
        VEHICLE,
        "s1",
        backlog=backlog or FakeBacklog(),
        random=lambda: random,
        traffic=traffic or free(),
        limits=limits,
    )


def connect(session: Session, now_s: float = 0.0, receive_maximum: int = 100, session_present: bool = True) -> None:
    assert Connect() in session.poll(now_s)
    session.connected(receive_maximum, session_present, now_s)


def channel_names(actions: list[Action]) -> list[str]:
    return [parse_topic(action.topic).channel.name for action in actions if isinstance(action, Publish)]


def batches(actions: list[Action]) -> list[bytes]:
    return [action.payload for action in actions if isinstance(action, Publish) and "/up/t/" in action.topic]


def tokens(actions: list[Action]) -> list[int]:
    return [action.token for action in actions if isinstance(action, Publish)]


def reported(version: int) -> Reported:
    return Reported(boot=1, agent_version="0", hardware="x", desired_version=version, slots={})


def test_nothing_is_published_while_disconnected() -> None:
    backlog = FakeBacklog()
    backlog.fill(3)
    session = make(backlog)
    session.set_reported(reported(1), 0.0)
    session.send(channels.FETCH, FetchRequest(path="metadata/timestamp.json", blocks=((0, 7),)))
    assert session.poll(0.0) == [Connect()]
    assert session.poll(5.0) == []


def test_a_connection_begins_with_who_this_is_and_what_it_runs() -> None:
    backlog = FakeBacklog()
    backlog.fill(2)
    backlog.ranges.append(LostRange(boot=1, stream="health", first_seq=7, last_seq=9, reason="pipe-full"))
    session = make(backlog)
    session.set_boot(4, "0.1.0", "x86-64")
    session.set_reported(reported(1), 0.0)
    connect(session)
    actions = session.poll(0.0)
    assert channel_names(actions) == ["status", "reported", "lost", "telemetry", "telemetry"]
    first = actions[0]
    assert isinstance(first, Publish) and first.retain and first.qos == 1
    status = decode(channels.STATUS, first.payload, Status)
    assert (status.online, status.session, status.boot, status.hardware) == (True, "s1", 4, "x86-64")
    assert session.poll(0.1) == []


def test_the_will_and_the_farewell_say_offline() -> None:
    session = make()
    assert session.farewell() == []
    connect(session)
    for message in (session.will(), *session.farewell()):
        assert isinstance(message, Publish) and message.retain
        assert not decode(channels.STATUS, message.payload, Status).online


def test_no_more_than_the_window_is_in_flight() -> None:
    backlog = FakeBacklog()
    backlog.fill(20)
    session = make(backlog)
    connect(session)
    assert len(batches(session.poll(0.0))) == 8
    for token in range(100):
        session.acked(token, 1.0)
    assert batches(session.poll(1.0)) == []  # a PUBACK is no commitment
    backlog.commit(session, {b"batch 1", b"batch 2", b"batch 3"})
    assert batches(session.poll(2.0)) == [b"batch 9", b"batch 10", b"batch 11"]


def test_the_broker_is_never_given_more_than_it_takes() -> None:
    backlog = FakeBacklog()
    backlog.fill(20)
    session = make(backlog)
    connect(session, receive_maximum=8)
    sent = session.poll(0.0)  # status and three batches: four places are kept for other messages
    assert len(batches(sent)) == 3
    session.acked(tokens(sent)[1], 0.5)
    assert len(batches(session.poll(0.5))) == 1


def test_a_batch_that_no_cursor_covers_is_sent_again_later_and_later() -> None:
    backlog = FakeBacklog()
    backlog.fill(1)
    session = make(backlog)
    connect(session)
    now_s, sent_s = 0.0, []
    while now_s < 200:
        actions = session.poll(now_s)
        if batches(actions):
            sent_s.append(now_s)
        for token in tokens(actions):
            session.acked(token, now_s)
        now_s += 1.0
    assert sent_s == [0.0, 20.0, 60.0, 140.0]
    assert session.view().resent == 4 - 1


def test_batches_that_the_cloud_cannot_take_do_not_stop_the_others() -> None:
    backlog = FakeBacklog()
    backlog.fill(30)
    session = make(backlog)
    connect(session)
    poison = {f"batch {key}".encode() for key in range(1, 11)}  # more than the window
    arrived: set[bytes] = set()
    for step in range(20):
        now_s = 100.0 * step
        actions = session.poll(now_s)
        arrived |= set(batches(actions))
        for token in tokens(actions):
            session.acked(token, now_s)
        backlog.commit(session, arrived - poison)
    assert len(arrived) == 30


def test_a_reconnect_sends_what_had_no_puback_at_once_and_waits_for_the_rest() -> None:
    backlog = FakeBacklog()
    backlog.fill(3)
    session = make(backlog)
    connect(session)
    sent = session.poll(0.0)
    session.acked(tokens(sent)[1], 0.1)  # the first batch
    session.disconnected("gone", 1.0)
    connect(session, 10.0)
    assert batches(session.poll(10.0)) == [b"batch 2", b"batch 3"]


def test_a_broker_that_forgot_the_session_gets_everything_uncommitted_again() -> None:
    backlog = FakeBacklog()
    backlog.fill(2)
    session = make(backlog)
    connect(session)
    for token in tokens(session.poll(0.0)):
        session.acked(token, 0.1)
    session.disconnected("killed", 1.0)
    connect(session, 10.0, session_present=False)
    assert batches(session.poll(10.0)) == [b"batch 1", b"batch 2"]


def test_a_new_ledger_epoch_sends_everything_that_is_held_again() -> None:
    backlog = FakeBacklog()
    backlog.fill(2)
    session = make(backlog)
    connect(session)
    for token in tokens(session.poll(0.0)):
        session.acked(token, 0.1)
    session.committed((), True)
    assert len(batches(session.poll(1.0))) == 2


def test_waiting_between_attempts_grows_with_jitter_and_is_bounded() -> None:
    for random, share in ((0.0, 0.5), (1.0, 1.0)):
        session = make(random=random)
        now_s, waits_s = 0.0, []
        for _ in range(12):
            assert session.poll(now_s) == [Connect()]
            session.disconnected("refused", now_s)
            waits_s.append(session.next_poll_s(now_s) if session.next_poll_s(now_s) < 1 else None)
            due_s = session._next_attempt_s
            assert session.poll(due_s - 0.01) == []
            now_s = due_s
        assert waits_s[0] == pytest.approx(0.5 * share)
        session.disconnected("refused", now_s)
        assert session.poll(now_s) == [Connect()]
        session.disconnected("refused", now_s)
        assert session._next_attempt_s - now_s == pytest.approx(60.0 * share)


def test_only_a_puback_ends_the_back_off() -> None:
    session = make()
    for now_s in (0.0, 100.0, 200.0):
        connect(session, now_s)  # accepted, and dropped at once
        session.disconnected("dropped", now_s)
    assert session._next_attempt_s - 200.0 == pytest.approx(2.0)
    connect(session, 300.0)
    session.acked(tokens(session.poll(300.0))[0], 300.1)
    session.disconnected("dropped", 301.0)
    assert session._next_attempt_s - 301.0 == pytest.approx(0.5)


def test_a_silent_connection_is_dropped() -> None:
    session = make()
    connect(session)
    session.poll(0.0)
    assert session.poll(45.0) == []
    assert isinstance(session.poll(45.1)[0], Disconnect)


def test_a_silent_broker_is_given_up() -> None:
    session = make()
    assert session.poll(0.0) == [Connect()]
    assert isinstance(session.poll(30.1)[0], Disconnect)


def test_reports_that_follow_each_other_quickly_become_one() -> None:
    session = make()
    connect(session)
    session.poll(0.0)
    session.set_reported(reported(1), 0.0)
    assert channel_names(session.poll(0.0)) == ["reported"]
    for version in (2, 3, 4):
        session.set_reported(reported(version), 0.1)
    assert channel_names(session.poll(0.1)) == []
    (message,) = session.poll(0.25)
    assert isinstance(message, Publish)
    assert decode(channels.REPORTED, message.payload, Reported).desired_version == 4
    session.set_reported(reported(4), 1.0)
    assert session.poll(1.0) == []


def test_telemetry_waits_for_drives_first_word_and_not_for_ever() -> None:
    backlog = FakeBacklog()
    backlog.fill(1)
    session = make(backlog, limits=SessionLimits(hold_s=10.0))
    connect(session)
    assert channel_names(session.poll(0.0)) == ["status"]
    session.set_boot(4, "0.1.0", "x86-64")
    assert channel_names(session.poll(1.0)) == ["status", "telemetry"]
    session = make(backlog, limits=SessionLimits(hold_s=10.0))
    connect(session)
    assert batches(session.poll(9.9)) == [] and len(batches(session.poll(10.1))) == 1


def test_a_metered_link_sends_highlights_and_the_rest_waits_for_another() -> None:
    backlog, traffic = FakeBacklog(), free()
    backlog.fill(3)
    backlog.fill(2, highlight=True)
    backlog.ranges = [LostRange(boot=1, stream="health", first_seq=1, last_seq=2, reason="spool-full:low-value")]
    session = make(backlog, traffic=traffic)
    traffic.use("metered", "wwan0")
    connect(session)
    actions = session.poll(0.0)
    assert batches(actions) == [b"batch 4", b"batch 5"] and "lost" in channel_names(actions)
    for token in tokens(actions):
        session.acked(token, 0.0)
    actions = session.poll(40.0)
    assert channel_names(actions) == ["telemetry", "telemetry"]  # again, but not what is lost
    for token in tokens(actions):
        session.acked(token, 40.0)
    assert "lost" in channel_names(session.poll(1900.0))
    backlog.commit(session, {b"batch 4", b"batch 5"})
    session.disconnected("in reach of a garage", 1901.0)
    traffic.use("unmetered", "wlan0")
    connect(session, 1910.0)
    assert batches(session.poll(1910.0)) == [b"batch 1", b"batch 2", b"batch 3"]


def test_telemetry_stops_at_the_bytes_of_a_day_and_goes_on_the_next() -> None:
    backlog = FakeBacklog()
    backlog.fill(200)
    traffic = Traffic({"metered": Limits(), "unmetered": Limits(bytes_per_day=5000)}, {})
    session = make(backlog, traffic=traffic)
    traffic.tick(0.0, 1e9)
    connect(session)
    sent, now_s = 0, 0.0
    for _ in range(400):
        now_s += 1.0
        actions = session.poll(now_s)
        sent += len(batches(actions))
        for token in tokens(actions):
            session.acked(token, now_s)
        backlog.commit(session, set(batches(actions)))
    assert 0 < sent < 200 and traffic.view().spent_bytes <= 5000
    assert not traffic.has_room(100)
    session.command(Command(id="c1", kind="ping"), now_s)
    assert channel_names(session.poll(now_s)) == ["reply"]  # what runs a fleet goes on
    traffic.tick(86_400.0, 1e9 + 86_400.0)
    assert batches(session.poll(now_s + 1.0)) != []


def test_lost_ranges_are_repeated_until_they_are_covered() -> None:
    backlog = FakeBacklog()
    session = make(backlog)
    connect(session)
    session.poll(0.0)
    first = LostRange(boot=1, stream="health", first_seq=1, last_seq=2, reason="pipe-full")
    second = LostRange(boot=1, stream="health", first_seq=5, last_seq=6, reason="spool-full")
    backlog.ranges = [first]
    (message,) = session.poll(1.0)
    assert isinstance(message, Publish)
    assert decode(channels.LOST, message.payload, Lost).ranges == (first,)
    session.acked(message.token, 1.0)
    backlog.ranges = [first, second]
    (message,) = session.poll(2.0)
    assert isinstance(message, Publish)
    assert decode(channels.LOST, message.payload, Lost).ranges == (second,)
    session.acked(message.token, 2.0)
    assert channel_names(session.poll(21.5)) == ["lost"]
    backlog.ranges = []
    assert channel_names(session.poll(60.0)) == []


def test_a_command_is_done_once_and_answered() -> None:
    backlog = FakeBacklog()
    backlog.fill(1)
    session = make(backlog)
    connect(session)
    for token in tokens(session.poll(0.0)):
        session.acked(token, 0.0)
    command = Command(id="c1", kind="resend")
    session.command(command, 1.0)
    session.command(command, 1.0)
    actions = session.poll(1.0)
    assert channel_names(actions) == ["reply", "telemetry"]
    assert isinstance(actions[0], Publish)
    assert decode(channels.REPLY, actions[0].payload, Reply) == Reply(id="c1", ok=True)


@given(
    st.lists(st.sampled_from(["poll", "ack", "commit", "break", "connect", "forget", "fill"]), max_size=60), st.data()
)
def test_every_batch_arrives_in_the_end(steps: list[str], data: st.DataObject) -> None:
    """A network that breaks as it likes: once it holds, all is delivered, within the window at any time."""
    backlog, traffic = FakeBacklog(), free()
    session = make(backlog, traffic=traffic)
    delivered: set[bytes] = set()
    unacked: list[int] = []
    now_s, up = 0.0, False

    def poll() -> None:
        nonlocal up
        for action in session.poll(now_s):
            if isinstance(action, Publish):
                assert up
                unacked.append(action.token)
                delivered.add(action.payload)
            elif isinstance(action, Disconnect):
                session.disconnected(action.reason, now_s)
                up = False

    for step in steps:
        now_s += data.draw(st.floats(0, 30))
        if step == "poll":
            poll()
        elif step == "fill":
            backlog.fill(2, highlight=data.draw(st.booleans()))
        elif step == "ack" and unacked and up:
            session.acked(unacked.pop(0), now_s)
        elif step == "commit":
            backlog.commit(session, delivered)
        elif step in ("connect", "forget") and not up:
            poll()
            traffic.use("metered" if data.draw(st.booleans()) else "unmetered", None)
            session.connected(20, step == "connect", now_s)
            up, unacked = True, []
        elif step == "break" and up:
            session.disconnected("break", now_s)
            up = False
        assert session.view().in_flight <= LIMITS.window
    traffic.use("unmetered", None)
    for _ in range(200):
        now_s += 31.0
        if not up:
            session.poll(now_s)
            session.connected(20, True, now_s)
            up = True
        poll()
        for token in unacked:
            session.acked(token, now_s)
        unacked.clear()
        backlog.commit(session, delivered)
    assert {row.payload for row in backlog.rows.values()} <= delivered
    assert msgspec.to_builtins(session.view())["connected"] is True


def test_a_connection_with_nothing_to_report_yet_does_not_spin() -> None:
    session = make()
    connect(session)
    session.poll(0.0)
    assert session.next_poll_s(0.5) > 0.1
    session.set_reported(reported(1), 0.5)
    assert session.next_poll_s(0.5) == 0.0


A, B = "a" * 64, "b" * 64


def interests(session: Session, now_s: float = 1.0) -> list[Action]:
    return [action for action in session.poll(now_s) if isinstance(action, Subscribe | Unsubscribe)]


def all_of(sha256: str) -> str:
    return f"roadloop/v1/_all/file/{sha256}/+"


def test_what_goes_to_all_is_heard_only_while_it_is_waited_for() -> None:
    session = make()
    connect(session)
    session.hear(A)
    session.send(channels.FETCH, FetchRequest(path="targets/a", blocks=((0, 7),), listening=True))
    actions = [action for action in session.poll(1.0) if not isinstance(action, Publish) or "fetch" in action.topic]
    assert actions[0] == Subscribe(all_of(A)), "before the request: its answer may come there"
    session.hear(B)
    assert interests(session) == [Unsubscribe(all_of(A)), Subscribe(all_of(B))]
    session.hear(B)
    session.hear(None)
    assert interests(session) == [Unsubscribe(all_of(B))] and interests(session) == []


def test_what_is_waited_for_is_heard_again_on_a_new_connection() -> None:
    session = make()
    session.hear(A)
    connect(session)
    assert interests(session) == [Subscribe(all_of(A))]
    session.disconnected("gone", 2.0)
    connect(session, 100.0, session_present=False)
    assert interests(session, 100.0) == [Subscribe(all_of(A))]


def test_what_an_agent_that_was_killed_wanted_to_hear_is_ended() -> None:
    session = make()
    connect(session)
    session.hear(A)
    interests(session)
    for _ in range(3):
        session.received(f"roadloop/v1/_all/file/{B}/7", b"block")
    session.received(f"roadloop/v1/_all/file/{A}/7", b"block")
    assert interests(session) == [Unsubscribe(all_of(B))]
