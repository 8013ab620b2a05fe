"""Link's threads without a network: what drive sends reaches the spool, what the cloud says reaches whom it is for."""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadloop_agent.campaigns.shelf import Shelf
from roadloop_agent.config import NetworkTable
from roadloop_agent.ipc import (
    Attach,
    Captured,
    FromDrive,
    FromLink,
    Hello,
    Pipe,
    Produced,
    Samples,
    ShadowSums,
    SlotHealth,
    Switch,
    Switched,
    encode_ipc,
)
from roadloop_agent.link import intake as intake_module
from roadloop_agent.link.batcher import Batcher, CapturedItem, Gap, Intake, SealedBatch
from roadloop_agent.link.budget import Traffic
from roadloop_agent.link.intake import PipeReader
from roadloop_agent.link.mailroom import Mailroom
from roadloop_agent.link.metering import Metering
from roadloop_agent.link.mqtt import Acked, Connected, Disconnected, Received
from roadloop_agent.link.process import Link
from roadloop_agent.link.session import Publish, Session
from roadloop_agent.link.sketches import SketchBook, SketchMemory
from roadloop_agent.link.spool import Spool
from roadloop_agent.link.value import Appraiser, Memory
from roadloop_agent.memory import Tidy
from roadloop_agent.socketpair import make_socketpair
from roadloop_agent.suspend import SleepWatch
from roadloop_models.contract import channels
from roadloop_models.contract.codec import decode, encode
from roadloop_models.contract.messages import (
    Command,
    Cursor,
    Desired,
    ErrorInfo,
    FetchRequest,
    FileBlock,
    Message,
    ReleaseRef,
    Reply,
    Reported,
    ReportedSlot,
    Status,
    StreamCursor,
)
from roadloop_models.contract.streams import HEALTH as HEALTH_STREAM
from roadloop_models.errors import DiskFullError

VAN = "van-1"
REF = ReleaseRef(task="traffic-sign", release=1, version="v1", manifest_sha256="0" * 64)
SLOT = ReportedSlot(task="traffic-sign", running=REF, runtime="onnx", precision="int8", state="idle")
HEALTH = SlotHealth(
    boot=1,
    slot="sign",
    ref=REF,
    decisions=1,
    errors=0,
    latency_mean_us=1.0,
    latency_max_us=1.0,
    confidence_mean=None,
    dropped=0,
    idle=False,
)


def samples(first: int, count: int) -> Samples:
    return Samples(
        boot=1, stream="health", first_seq=first, t_ms=[0] * count, rows=[[0.0] * len(HEALTH_STREAM.fields)] * count
    )


def blocks(content: bytes, size: int) -> list[Captured]:
    import hashlib

    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return [
        Captured(
            boot=1,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            media_type="image/png",
            task="traffic-sign",
            about_stream="sign-decision",
            about_seq=4,
            t_ms=9,
            about_row=[],
            n=n,
            blocks=len(pieces),
            data=piece,
        )
        for n, piece in enumerate(pieces)
    ]


class FullDisk:
    """A spool whose disk is full for the first `failures` writes."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.written: list[Intake] = []
        self.items: list[CapturedItem] = []

    def known(self) -> dict[tuple[int, str], int]:
        return {}

    def _write(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise DiskFullError("spool: database or disk is full; nothing was changed")

    def append(self, waiting: deque[Intake], now_s: float) -> None:
        self._write()
        self.written += waiting
        waiting.clear()

    def append_items(self, waiting: deque[CapturedItem], now_s: float) -> None:
        self._write()
        self.items += waiting
        waiting.clear()


def read(messages: list[FromDrive], sink: FullDisk, batch_samples: int = 2) -> tuple[list[FromDrive], PipeReader]:
    """Let the reader take these messages and stop."""
    drive, link = (Pipe(end) for end in make_socketpair())
    dispatched: list[FromDrive] = []
    reader = PipeReader(
        pipe=link,
        sink=sink,
        batcher=Batcher(batch_samples, 5.0, {}, Appraiser(Memory(), 0.1)),
        book=SketchBook(
            period_s=3600.0, known={}, memory=SketchMemory(), reference=lambda directory: None, now_s=time.monotonic()
        ),
        dispatch=dispatched.append,
        stored=lambda: None,
        remember=lambda: None,
        clock=time.monotonic,
        beat=lambda: None,
    )
    for message in (*messages, Produced(boot=1, last_seq={}, ended=True)):
        assert drive.try_send(encode_ipc(message))
    stop = threading.Event()
    stop.set()
    reader.run(stop)
    asked: FromLink | None = drive.receive_from_link()
    assert asked == Attach()
    return dispatched, reader


def spans(written: list[Intake]) -> list[tuple[str, int, int]]:
    return [(entry.reason if isinstance(entry, Gap) else "batch", entry.first_seq, entry.last_seq) for entry in written]


def test_messages_go_where_they_belong() -> None:
    sink = FullDisk(0)
    switched = Switched(boot=1, slot="sign", ref=REF, ok=True, runtime="onnx", precision="int8")
    hello = Hello(boot=1, slots={})
    dispatched, _ = read(
        [HEALTH, hello, HEALTH, samples(1, 3), switched, Produced(boot=1, last_seq={"health": 4})], sink
    )
    assert dispatched == [hello, HEALTH, switched]  # health of a drive that has not said who it is means nothing
    assert spans(sink.written) == [("batch", 1, 2), ("batch", 3, 3), ("pipe-full", 4, 4)]


def test_the_last_word_of_drive_seals_everything() -> None:
    sink = FullDisk(0)
    read([samples(1, 3), Produced(boot=1, last_seq={"health": 3}, ended=True)], sink, batch_samples=100)
    assert spans(sink.written) == [("batch", 1, 3)]


def test_an_item_is_stored_whole_or_not_at_all() -> None:
    sink = FullDisk(0)
    whole, torn, other = blocks(b"abcdef", 2), blocks(b"ghijkl", 2), blocks(b"xy", 2)
    _, reader = read([whole[0], whole[1], torn[0], torn[2], *whole, other[0]], sink)
    assert [b"".join(captured.blocks) for captured in sink.items] == [b"abcdef", b"xy"]
    assert sink.items[0].item.about_seq == 4
    lying = msgspec.structs.replace(other[0], sha256="f" * 64)
    sink = FullDisk(0)
    _, reader = read([lying], sink)
    assert sink.items == [] and reader.malformed == 1


def test_a_full_disk_is_waited_for_and_nothing_is_lost() -> None:
    sink = FullDisk(1)
    read([samples(1, 2), samples(3, 2), samples(5, 2)], sink)
    assert spans(sink.written) == [("batch", 1, 2), ("batch", 3, 4), ("batch", 5, 6)]


def test_a_disk_that_stays_full_costs_the_least_valuable_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "_WAITING_BYTES", 500)
    sink = FullDisk(1)
    speeds = [msgspec.structs.replace(samples(1, 2), stream="road-speed", rows=[[5.0] * 22] * 2)]
    read([samples(1, 2), *speeds, samples(3, 2), samples(5, 2), samples(7, 2)], sink)
    lost = [entry for entry in sink.written if isinstance(entry, Gap)]
    assert ("road-speed", 1, 2) in {(gap.stream, gap.first_seq, gap.last_seq) for gap in lost}  # before any health
    assert {gap.reason for gap in lost} == {"disk-full:low-value"}
    assert len(lost) < 5 and sum(len(entry.payload) for entry in sink.written if isinstance(entry, SealedBatch)) <= 500
    assert spans([entry for entry in sink.written if entry.stream == "health"])[-1] == ("batch", 7, 8)


# The owner.


class FakeTransport:
    """A broker that accepts every connection."""

    def __init__(self, post: Callable[[Any], None]) -> None:
        self._post = post
        self.published: list[Publish] = []
        self.wills: list[Publish] = []
        self.patterns: list[str] = []
        self.drops = 0
        self.closed = False

    def connect(self, will: Publish) -> None:
        self.wills.append(will)
        self._post(Connected(100, True))

    def publish(self, message: Publish) -> None:
        self.published.append(message)
        self._post(Acked(message.token))

    def subscribe(self, pattern: str) -> None:
        self.patterns.append(pattern)

    def unsubscribe(self, pattern: str) -> None:
        self.patterns.remove(pattern)

    def drop(self) -> None:
        self.drops += 1

    def close(self, timeout_s: float) -> None:
        self.closed = True


class FakeUpdates:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.connections = 0

    def on_desired(self, desired: Desired) -> None:
        self.told.append(desired)

    def on_connected(self) -> None:
        self.connections += 1

    def on_block(self, sha256: str, n: int, block: FileBlock) -> None:
        self.told.append((sha256, n, block))

    def on_hello(self, hello: Hello) -> None:
        self.told.append(hello)

    def on_health(self, health: SlotHealth) -> None:
        self.told.append(health)

    def on_switched(self, switched: Switched) -> None:
        self.told.append(switched)

    def on_shadow(self, sums: ShadowSums) -> None:
        self.told.append(sums)


class FakeStatus:
    """The last value of each key."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def put(self, key: str, value: Any) -> None:
        self.values[key] = value


class World:
    """Link with a real spool, run step by step."""

    def __init__(self, directory: Path) -> None:
        self.drive, self.link_end = (Pipe(end) for end in make_socketpair())
        self.mailroom = Mailroom(self.link_end)
        self.spool = Spool(directory / "spool.sqlite", 1 << 20, 60.0, 0.0)
        self.transport, self.updates, self.status = FakeTransport(self.mailroom.post), FakeUpdates(), FakeStatus()
        traffic = Traffic({"metered": NetworkTable().on_metered, "unmetered": NetworkTable().on_unmetered}, {})
        self.boot_s = 0.0
        self.link = Link(
            vehicle=VAN,
            hardware="test",
            desired_version=3,
            session=Session(VAN, "s1", backlog=self.spool, random=lambda: 0.5, traffic=traffic),
            transport=self.transport,
            ledger=self.spool,
            updates=self.updates,
            campaigns=Shelf(directory / "campaigns.json"),
            mailroom=self.mailroom,
            status=self.status,
            metering=Metering(
                traffic,
                lambda _: ("unmetered", "eth0"),
                lambda facts: self.spool.keep(facts, 0.0),
                time.monotonic,
                time.time,
            ),
            clock=time.monotonic,
            beat=lambda: None,
            tidy=Tidy(lambda: None, time.monotonic),
            sleep=SleepWatch(lambda: self.boot_s),
        )

    def run(self, what: str, reached: Callable[[], bool]) -> None:
        """Let the owner work until it is so."""
        stop = threading.Event()
        thread = threading.Thread(target=self.link.run, args=(stop,))
        thread.start()
        until_s = time.monotonic() + 10
        while not reached() and time.monotonic() < until_s:
            time.sleep(0.005)
        stop.set()
        self.mailroom.spool_changed()
        thread.join(5)
        assert reached(), what

    def receive(self, channel: channels.Channel, message: Message, **parts: str | int) -> None:
        self.mailroom.post(Received(channel.topic(VAN, **parts), encode(channel, message)))

    def sent(self, channel: channels.Channel) -> list[bytes]:
        return [message.payload for message in self.transport.published if message.topic == channel.topic(VAN)]


def test_what_is_said_of_the_slots_is_reported(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.link.dispatch(Hello(boot=6, slots={}))
    world.mailroom.report({"sign": SLOT})
    world.run("it is reported", lambda: bool(world.sent(channels.REPORTED)))
    reported = decode(channels.REPORTED, world.sent(channels.REPORTED)[-1], Reported)
    assert (reported.boot, reported.slots, reported.desired_version) == (6, {"sign": SLOT}, 3)
    statuses = [decode(channels.STATUS, payload, Status) for payload in world.sent(channels.STATUS)]
    assert statuses[-1].boot == 6 and statuses[-1].online
    assert not decode(channels.STATUS, world.transport.wills[0].payload, Status).online
    assert world.status.values["status"]["connection"]["connected"] is True


def test_what_keeps_a_slot_from_deciding_is_reported_until_it_decides_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.link.dispatch(Hello(boot=6, slots={}))
    world.mailroom.report({"sign": SLOT})

    def troubles() -> list[str | None]:
        reports = [
            decode(channels.REPORTED, payload, Reported).slots["sign"] for payload in world.sent(channels.REPORTED)
        ]
        return [None if slot.trouble is None else slot.trouble.detail for slot in reports]

    world.run("it is reported", lambda: troubles() == [None])
    for number in range(3):  # each second says it anew, with its own words
        error = ErrorInfo(code="retry-later", detail=f"no new frame for {number} s")
        world.link.dispatch(msgspec.structs.replace(HEALTH, decisions=0, last_error=error, shed=7, band="hot"))
        world.run("the trouble is reported", lambda: len(troubles()) == 2)
    world.link.dispatch(HEALTH)
    world.run("it is over", lambda: len(troubles()) == 3)
    assert troubles() == [None, "no new frame for 0 s", None]
    assert world.status.values["status"]["health"]["sign"]["decisions"] == 1


def test_messages_of_the_cloud_go_where_they_belong(tmp_path: Path) -> None:
    world = World(tmp_path)
    desired = Desired(version=9, slots={"sign": REF})
    block = FileBlock(path="metadata/timestamp.json", size_bytes=1, crc32=0, data=b"x")
    world.receive(channels.DESIRED, desired)
    world.receive(channels.FILE, block, sha256="a" * 64, n=3)
    world.run("it is connected", lambda: bool(world.sent(channels.STATUS)) and len(world.updates.told) == 2)
    world.receive(channels.COMMAND, Command(id="c1", kind="ping"))
    world.mailroom.send_fetch(FetchRequest(path="metadata/timestamp.json", blocks=((0, 7),)))
    world.run("it answers", lambda: bool(world.sent(channels.REPLY) and world.sent(channels.FETCH)))
    assert world.updates.told == [desired, ("a" * 64, 3, block)]
    assert decode(channels.REPLY, world.sent(channels.REPLY)[0], Reply).ok
    assert len(world.sent(channels.FETCH)) == 1
    assert world.status.values["status"]["desired_version"] == 9


def test_a_cursor_trims_the_spool(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.spool.append(deque([Gap(1, "health", 1, 5, "pipe-full")]), 0.0)
    world.receive(channels.CURSOR, Cursor(epoch=1, streams=(StreamCursor(boot=1, stream="health", prefix=5),)))
    world.run("nothing is lost any more", lambda: world.spool.lost() == [])


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff" * 1000, b"[]"])
def test_what_is_malformed_is_noted_and_changes_nothing(tmp_path: Path, payload: bytes) -> None:
    world = World(tmp_path)
    for tail in ("down/desired", "down/cursor", "down/cmd", "up/status", "nowhere"):
        world.mailroom.post(Received(f"roadloop/v1/{VAN}/{tail}", payload))
    world.mailroom.post(Received("rubbish", payload))
    world.run("all are read", world.mailroom.events.empty)
    assert world.updates.told == [] and world.transport.drops == 0
    assert world.status.values["status"]["message_error"]


def test_a_lost_connection_is_made_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run("it is connected", lambda: bool(world.sent(channels.STATUS)))
    world.mailroom.post(Disconnected("gone"))
    world.run("it connects again", lambda: len(world.transport.wills) == 2)


def test_a_stop_says_goodbye(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run("it is connected", lambda: bool(world.sent(channels.STATUS)))
    world.link.close()
    assert not decode(channels.STATUS, world.sent(channels.STATUS)[-1], Status).online
    assert world.transport.closed


def test_a_stop_hands_over_what_is_left_and_waits_for_no_more_than_it_may(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.link.dispatch(Hello(boot=1, slots={}))
    world.run("it is connected", lambda: bool(world.sent(channels.STATUS)))
    world.spool.append(deque([SealedBatch(1, "health", 1, 5, b"columns")]), 0.0)
    world.link.drain(0.05)
    assert world.spool.stats().pending_batches == 1, "nobody has committed it"
    assert [message.payload for message in world.transport.published if "/up/t/" in message.topic] == [b"columns"]
    world.receive(channels.CURSOR, Cursor(epoch=1, streams=(StreamCursor(boot=1, stream="health", prefix=5),)))
    world.link.drain(60.0)
    assert world.spool.stats().pending_batches == 0


def test_a_switch_reaches_drive_and_a_full_pipe_stops_nobody(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.mailroom.switch("sign", REF, "/bundle")
    message = world.drive.receive_from_link()
    assert isinstance(message, Switch)
    assert (message.slot, message.ref, message.bundle_dir) == ("sign", REF, "/bundle")
    filler = encode_ipc(Attach())
    while world.link_end.try_send(filler):
        pass
    world.mailroom.switch("sign", REF, "/bundle")
    while world.drive.receive_from_link() == Attach():
        pass
    assert world.drive.receive_from_link() is None
