"""Drive's parts without processes: numbering, hand-over, pacing, decisions, slots and swaps."""

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_agent.config import CaptureTable, SlotTable
from roadloop_agent.drive import decide, outbox
from roadloop_agent.drive.capture import Capture, Subscriber
from roadloop_agent.drive.frames import Frame, Item, Mailbox, Reported
from roadloop_agent.drive.handlers import open_handler
from roadloop_agent.drive.handlers.sign import sign_row
from roadloop_agent.drive.handlers.speed import speed_observations, speed_row
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.drive.regulator import Pace
from roadloop_agent.drive.roll import CaptureRoll
from roadloop_agent.drive.slots import Slot, Tally, health_row
from roadloop_agent.ipc import Captured, FromDrive, Hello, Produced, Samples
from roadloop_agent.link.batcher import Batcher, Gap
from roadloop_agent.link.value import Appraiser, Memory
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.contract.streams import HEALTH, ROAD_SPEED, SIGN_DECISION, SPEED_DECISION
from roadloop_models.errors import BundleError, DataError, ModelInputError, VariantMissingError
from roadloop_models.postprocess import SignClass
from roadloop_models.runners import FloatArray
from tests.fakes.bundles import tiny_bundle
from tests.fakes.pipes import FakePipe


def ref(release: int, sha256: str = "0" * 64) -> ReleaseRef:
    return ReleaseRef(task="traffic-sign", release=release, version=f"v{release}", manifest_sha256=sha256)


# The outbox.


def row(value: float = 0.0) -> list[float]:
    return [value] * len(HEALTH.fields)


def test_samples_are_numbered_by_stream_and_sent_together() -> None:
    pipe, now = FakePipe(), 0.0
    box = Outbox(pipe, 7, lambda: now)
    assert [box.sample(HEALTH, 1000, row()) for _ in range(3)] == [1, 2, 3]
    assert box.sample(SIGN_DECISION, 1000, row()) == 1
    assert pipe.messages == []
    now = outbox.FLUSH_S
    box.flush()
    assert [(m.stream, m.boot, m.first_seq, len(m.rows)) for m in pipe.messages if isinstance(m, Samples)] == [
        ("health", 7, 1, 3),
        ("sign-decision", 7, 1, 1),
    ]


def test_many_samples_do_not_wait_for_the_clock() -> None:
    pipe = FakePipe()
    box = Outbox(pipe, 1, lambda: 0.0)
    for _ in range(outbox.FLUSH_ROWS):
        box.sample(HEALTH, 0, row())
    assert len(pipe.messages) == 1


def test_what_the_pipe_has_no_room_for_is_kept_in_order_and_then_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "BACKLOG_BYTES", 20_000)
    pipe = FakePipe(room=0)
    box = Outbox(pipe, 1, lambda: 0.0)
    for index in range(100 * outbox.FLUSH_ROWS):
        box.sample(HEALTH, 0, row(float(index)))
    assert box.dropped_samples > 0
    pipe.room = 10**6
    box.say_produced()
    *samples, produced = pipe.messages
    assert isinstance(produced, Produced) and produced.last_seq == {"health": 100 * outbox.FLUSH_ROWS}
    batcher = Batcher(100, 5.0, {}, Appraiser(Memory(), 0.1))
    intake = [entry for message in samples if isinstance(message, Samples) for entry in batcher.add(message, 0.0)]
    intake += batcher.produced(1, produced.last_seq) + batcher.seal_all()
    gaps = [entry for entry in intake if isinstance(entry, Gap)]
    assert sum(gap.last_seq - gap.first_seq + 1 for gap in gaps) == box.dropped_samples
    assert sum(entry.last_seq - entry.first_seq + 1 for entry in intake) == 100 * outbox.FLUSH_ROWS


def captured(n: int, blocks: int) -> Captured:
    return Captured(
        boot=1,
        sha256="0" * 64,
        size_bytes=10,
        media_type="image/png",
        task="traffic-sign",
        about_stream="sign-decision",
        about_seq=1,
        t_ms=0,
        about_row=[],
        n=n,
        blocks=blocks,
        data=b"x",
    )


def test_captured_items_never_push_samples_aside() -> None:
    pipe = FakePipe(room=0)
    box = Outbox(pipe, 1, lambda: 0.0)
    box.send(Hello(boot=1, slots={}))
    assert not box.offer([captured(0, 1)])
    pipe.room = 10
    assert box.offer([captured(0, 2), captured(1, 2)])
    assert [type(message) for message in pipe.messages] == [Hello, Captured, Captured]
    assert box.dropped_items == 1


# Frames and sources.


def frame(number: int) -> Frame:
    return Frame(number, float(number), number, None)


def test_a_mailbox_keeps_the_newest_frame_and_counts_the_others() -> None:
    box = Mailbox()
    for number in range(3):
        box.put_latest(frame(number))
    newest = box.take(0.0)
    assert newest is not None and newest.number == 2
    assert (box.dropped, box.take(0.0)) == (2, None)
    box.put_latest(frame(3))
    box.end()
    assert not box.idle
    box.take(0.0)
    assert box.idle


def items(count: int) -> Iterator[Item]:
    return (Item(number, str(number), number) for number in range(count))


def capture(subscribers: list[Subscriber], count: int = 20, rate_hz: float = 1000.0, **more: object) -> Capture:
    settings = {"loop": False, "pace": "rate", "open_items": lambda _passed_over: items(count)} | more
    return Capture(
        name="camera",
        period_s=1.0 / rate_hz,
        reopen_s=0.01,
        subscribers=subscribers,
        clock=time.monotonic,
        wall_ms=lambda: 0,
        **settings,  # type: ignore[arg-type]
    )


def run_beside(source: Capture, taker: Mailbox, take: int, pause_s: float = 0.0) -> list[int]:
    stop = threading.Event()
    taken: list[int] = []
    thread = threading.Thread(target=source.run, args=(stop, lambda: None))
    thread.start()
    until_s = time.monotonic() + 10
    while len(taken) < take and not taker.idle and time.monotonic() < until_s:
        got = taker.take(0.01)
        if got is not None:
            taken.append(got.number)
            time.sleep(pause_s)
    stop.set()
    thread.join(5)
    return taken


def test_a_lossless_source_waits_for_a_slow_slot() -> None:
    box = Mailbox()
    assert run_beside(capture([Subscriber(box, 0.001)], pace="as-consumed"), box, 20, 0.002) == list(range(20))
    assert box.dropped == 0


def test_a_live_source_drops_what_a_slow_slot_does_not_take() -> None:
    box = Mailbox()
    taken = run_beside(capture([Subscriber(box, 0.001)], count=100), box, 100, 0.01)
    assert taken == sorted(taken) and len(taken) + box.dropped == 100
    assert box.dropped > 0


def test_a_source_that_loops_begins_again() -> None:
    box = Mailbox()
    assert run_beside(capture([Subscriber(box, 0.001)], count=3, pace="as-consumed", loop=True), box, 7) == [
        0, 1, 2, 0, 1, 2, 0,
    ]  # fmt: skip


def test_a_slower_slot_gets_its_own_rate_of_the_same_source() -> None:
    fast, slow = Mailbox(), Mailbox()
    source = capture([Subscriber(fast, 0.001), Subscriber(slow, 0.004)])
    delivered = []
    slow.put_latest = lambda frame: delivered.append(frame.number)  # type: ignore[method-assign]
    for number in range(20):
        source._deliver(Frame(number, number * 0.001, 0, None))
    assert delivered == [0, 4, 8, 12, 16]
    assert fast.dropped == 19


def test_a_source_that_fails_says_so_and_is_opened_again() -> None:
    box, tries = Mailbox(), []

    def open_items(_passed_over: Reported) -> Iterator[Item]:
        tries.append(1)
        if len(tries) < 3:
            raise DataError("camera.mp4: truncated") if len(tries) == 1 else RuntimeError("the decoder's own")
        return items(2)

    source = capture([Subscriber(box, 0.001)], open_items=open_items, pace="as-consumed")
    assert run_beside(source, box, 2) == [0, 1]
    assert len(tries) == 3


# Decisions.


def test_every_sensor_of_a_step_is_observed_in_full_samples() -> None:
    speeds: FloatArray = np.arange(207, dtype=np.float32)
    rows = list(speed_observations(3, speeds))
    assert len(rows) == 11
    seen = {int(row[1]) + index: value for row in rows for index, value in enumerate(row[2:])}
    assert [seen[sensor] for sensor in range(207)] == speeds.tolist()
    assert all(len(row) == len(ROAD_SPEED.fields) and row[0] == 3 for row in rows)
    assert not any(math.isnan(value) for row in rows for value in row)
    (few,) = speed_observations(0, speeds[:5])
    assert few[2:7] == [0, 1, 2, 3, 4] and all(math.isnan(value) for value in few[7:])


def test_frames_are_captured_when_unsure_or_when_it_is_their_turn() -> None:
    assert decide.wants_capture(0.5, 1, 0.9, 0)
    assert not decide.wants_capture(0.95, 1, 0.9, 0)
    assert [count for count in range(1, 10) if decide.wants_capture(1.0, count, 0.9, 4)] == [4, 8]


def test_a_byte_budget_is_refilled_with_time_and_never_beyond_its_burst() -> None:
    budget = decide.ByteBudget(100, burst_s=10)
    assert budget.allows(0.0)
    budget.spend(1500)  # one item may overdraw it
    assert not budget.allows(4.9)
    assert budget.allows(5.1)
    budget.allows(1000.0)
    budget.spend(1001)
    assert not budget.allows(1000.0)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 300)), max_size=40))
def test_a_byte_budget_is_kept_over_any_time(steps: list[tuple[float, int]]) -> None:
    budget, now_s, spent, largest = decide.ByteBudget(100, burst_s=2), 0.0, 0, 0
    for wait_s, size_bytes in steps:
        now_s += wait_s
        if budget.allows(now_s):
            budget.spend(size_bytes)
            spent, largest = spent + size_bytes, max(largest, size_bytes)
    assert spent <= 200 + 100 * now_s + largest


# Models and slots.


def test_a_model_loads_only_as_the_release_that_was_asked_for(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    model = load_model(bundle.directory, "onnx-int8", ref(2, bundle.manifest_sha256))
    assert (model.release, model.runner.providers) == (2, ("CPUExecutionProvider",))
    with pytest.raises(BundleError, match="not the one that release 2 names"):
        load_model(bundle.directory, "onnx-int8", ref(2))
    with pytest.raises(VariantMissingError, match="this bundle has onnx-int8"):
        load_model(bundle.directory, "tflite-int8")
    with pytest.raises(ModelInputError, match="expected uint8 RGB"):
        model.preprocess(np.zeros((3, 3), dtype=np.uint8))


class SlowStart:
    """A slot with everything around it, driven step by step."""

    def __init__(self, **capture_settings: float) -> None:
        table = SlotTable(
            task="traffic-sign",
            runtime="onnx",
            source="camera",
            rate_hz=10.0,
            capture=CaptureTable(**capture_settings),  # type: ignore[arg-type]
        )
        self.pipe, self.mailbox = FakePipe(), Mailbox()
        self.outbox = Outbox(self.pipe, 1, time.monotonic)
        self.roll = CaptureRoll(1, self.outbox, {"sign": 10**6}, bytes)
        self.slot = Slot(
            name="sign",
            table=table,
            handler=open_handler(table),
            mailbox=self.mailbox,
            outbox=self.outbox,
            announce=lambda *_: None,
            roll=self.roll,
            clock=time.monotonic,
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.slot.run, args=(self.stop, lambda: None))

    def __enter__(self) -> "SlowStart":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(5)

    def show(self, number: int, image: object) -> None:
        assert self.mailbox.wait_until_taken(5)
        self.mailbox.put_latest(Frame(number, 0.0, number, image))
        assert self.mailbox.wait_until_taken(5)

    def rows(self, stream: str) -> list[list[float]]:
        self.outbox.say_produced()
        return [row for m in self.pipe.messages if isinstance(m, Samples) and m.stream == stream for row in m.rows]


IMAGE = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)


def wait_for(slot: Slot, model: Model) -> None:
    until_s = time.monotonic() + 5
    while slot.running is not model and time.monotonic() < until_s:
        time.sleep(0.005)
    assert slot.running is model


def test_a_swap_happens_between_frames_and_each_decision_names_its_release(tmp_path: Path) -> None:
    models = []
    for release in (1, 2):
        bundle = tiny_bundle(tmp_path / str(release), f"v{release}", seed=release)
        models.append(load_model(bundle.directory, "onnx-int8", ref(release, bundle.manifest_sha256)))
    with SlowStart() as world:
        world.slot.offer(models[0])
        wait_for(world.slot, models[0])
        for number in range(5):
            world.show(number, IMAGE)
        world.slot.offer(models[1])
        wait_for(world.slot, models[1])  # with no frame to wait for
        for number in range(5, 8):
            world.show(number, IMAGE)
    rows = world.rows("sign-decision")
    assert [(row[0], row[5]) for row in rows] == [(n, 1.0) for n in range(5)] + [(n, 2.0) for n in range(5, 8)]
    tallies = [tally for tally in world.slot.collect() if tally.decisions]
    assert [(tally.ref.release if tally.ref else None, tally.decisions) for tally in tallies] == [(1, 5), (2, 3)]
    assert all(0 < tally.latency_mean_us <= tally.latency_max_us for tally in tallies)


def test_a_frame_that_fails_is_counted_and_the_next_is_decided(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "b")
    model = load_model(bundle.directory, "onnx-int8", ref(1, bundle.manifest_sha256))
    with SlowStart() as world:
        world.slot.offer(model)
        wait_for(world.slot, model)
        world.show(1, "not an image")
        world.show(2, np.zeros((0, 5, 3), dtype=np.uint8))
        world.show(3, IMAGE)
    (tally,) = [tally for tally in world.slot.collect() if tally.ref is not None]
    assert (tally.errors, tally.decisions) == (2, 1)
    assert tally.last_error is not None and tally.last_error.code == "model-input-invalid"
    assert len(world.rows("sign-decision")) == 1


def test_telemetry_that_takes_arithmetic_is_made_when_the_outbox_is_flushed() -> None:
    pipe, made = FakePipe(), []
    box = Outbox(pipe, 1, lambda: 0.0)
    box.later(lambda: made.append(box.sample(HEALTH, 1, row())))
    assert not made
    box.flush()
    box.later(lambda: made.append(box.sample(HEALTH, 2, row())))
    box.say_produced()
    assert made == [1, 2]
    assert isinstance(pipe.messages[-1], Produced) and pipe.messages[-1].last_seq == {"health": 2}


def test_reports_that_nobody_flushes_are_made_at_once_in_the_end() -> None:
    made: list[int] = []
    box = Outbox(FakePipe(), 1, lambda: 0.0)
    for _ in range(outbox.LATER_LIMIT + 3):
        box.later(lambda: made.append(1))
    assert len(made) == 3


def test_a_captured_frame_names_the_sample_that_it_belongs_to(tmp_path: Path) -> None:
    model = load_model(tiny_bundle(tmp_path / "b").directory, "onnx-int8")
    with SlowStart(every=2) as world:
        world.slot.offer(model)
        wait_for(world.slot, model)
        for number in range(4):
            world.show(number, IMAGE + np.uint8(number))
    world.roll.run(world.stop, lambda: None)
    blocks = [message for message in world.pipe.messages if isinstance(message, Captured)]
    assert [(block.about_stream, block.about_seq, block.t_ms) for block in blocks] == [
        ("sign-decision", 2, 1),
        ("sign-decision", 4, 3),
    ]
    assert [row[6] for row in world.rows("sign-decision")] == [0.0, 1.0, 0.0, 1.0]


def test_a_picture_that_was_sent_is_not_sent_again(tmp_path: Path) -> None:
    model = load_model(tiny_bundle(tmp_path / "b").directory, "onnx-int8")
    with SlowStart(every=1) as world:
        world.slot.offer(model)
        wait_for(world.slot, model)
        for number in range(4):
            world.show(number, IMAGE + np.uint8(number % 2))
    world.roll.run(world.stop, lambda: None)
    blocks = [message for message in world.pipe.messages if isinstance(message, Captured)]
    assert [block.about_seq for block in blocks] == [1, 2]


def test_rows_fit_their_streams() -> None:
    assert len(health_row(0, Tally(None), 0, 1.0, Pace())) == len(HEALTH.fields)
    decision = SignClass(1, "x", 0.5, 0.1)
    sign = sign_row(decision, item=1, latency_us=1.0, release=1, captured=False, dropped=0)
    assert len(sign) == len(SIGN_DECISION.fields)
    speed = speed_row(np.ones((3, 12), np.float32), np.ones(3, np.float32), step=1, latency_us=1.0, release=1)
    assert len(speed) == len(SPEED_DECISION.fields)


def test_messages_are_what_the_pipe_carries() -> None:
    message: FromDrive = captured(0, 1)
    pipe = FakePipe()
    Outbox(pipe, 1, lambda: 0.0).send(message)
    assert pipe.messages == [message]
