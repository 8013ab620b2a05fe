"""The keeper on board, in one process: clips of signals, coarse positions, budgets over a kill, a busy pipe."""

import contextlib
import hashlib
import io
import json
import math
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from roadloop_agent.campaigns.keeper import Keeper, Seen
from roadloop_agent.campaigns.shelf import Shelf
from roadloop_agent.campaigns.trace import write_trace
from roadloop_agent.config import Config, load_config
from roadloop_agent.drive.frames import Frame, refuse
from roadloop_agent.drive.handlers import open_handler
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.drive.post import Post
from roadloop_agent.drive.sources import opener
from roadloop_agent.ipc import Captured
from roadloop_cloud.campaigns.backtest import predict
from roadloop_models.campaigns.campaign import Budget, Campaign, Keep
from roadloop_models.campaigns.positions import LATITUDE, LONGITUDE
from roadloop_models.campaigns.trace import read_trace
from roadloop_models.contract.messages import Campaigns
from roadloop_models.contract.streams import SIGN_DECISION
from roadloop_models.errors import BundleError
from roadloop_models.packaged import packaged_bundles
from roadloop_models.preprocess import ImageArray
from tests.fakes.pipes import FakePipe

VEHICLE = """
[vehicle]
id = "van-1"
[broker]
host = "127.0.0.1"
[privacy]
position_m = 500.0
"""
PROFILE = """
hardware = "test"
[sources.drive]
kind = "made-drive"
minutes = 3
rate_hz = 5.0
[slots.state]
task = "drive-state"
runtime = "onnx"
source = "drive"
rate_hz = 5.0
[slots.place]
task = "localization"
runtime = "onnx"
source = "drive"
rate_hz = 5.0
"""
BUDGET = Budget(bytes_per_day=1 << 20)
SLOW = Campaign(
    name="slow",
    task="drive-state",
    when="speed_kmh < 90 and Vehicle.OBD.EngineSpeed > 0",
    rest_s=30.0,
    keep=Keep(before_s=5.0, after_s=3.0),
    budget=BUDGET,
)


class Around:
    frames, dropped = 1, 0

    def may_capture(self) -> bool:
        return False


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "vehicle.toml").write_text(VEHICLE)
    (tmp_path / "profile.toml").write_text(PROFILE)
    return load_config(tmp_path / "vehicle.toml")


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, Model]]:
    with contextlib.ExitStack() as stack:
        yield {
            slot: stack.enter_context(contextlib.closing(load_model(packaged_bundles()[task], "onnx-int8")))
            for slot, task in (("state", "drive-state"), ("place", "localization"))
        }


class Vehicle:
    """A keeper, and link's end of the pipe."""

    def __init__(self, config: Config, campaigns: tuple[Campaign, ...], develop: object = bytes) -> None:
        self.pipe = FakePipe()
        self.config = config
        self.now_s = 0.0
        Shelf(config.campaigns_path).take(Campaigns(version=1, campaigns=campaigns))
        self.keeper = Keeper(
            slots=config.profile.slots,
            post=Post(1, Outbox(self.pipe, 1, lambda: 0.0)),
            develop=develop,  # type: ignore[arg-type]
            position_m=config.privacy.position_m,
            shelf=config.campaigns_path,
            memory=config.campaign_budgets_path,
            clock=lambda: self.now_s,
            boottime=lambda: self.now_s,
            wall=lambda: self.now_s,
        )
        self.keeper._look()  # the thread is not started yet: what is seen before it runs waits in the queue

    def run(self) -> list[Captured]:
        """Deal with what was seen, and stop as drive stops it."""
        stop = threading.Event()
        stop.set()
        self.keeper.run(stop, lambda: None)
        return self.items

    @property
    def items(self) -> list[Captured]:
        return [message for message in self.pipe.messages if isinstance(message, Captured)]


def drive(vehicle: Vehicle, config: Config, models: dict[str, Model], slots: tuple[str, ...]) -> None:
    """Every frame of the source through the handlers, one slot after the other, to the keeper."""
    for slot in slots:
        table = config.profile.slots[slot]
        source = config.profile.sources[table.source]
        handler, seq = open_handler(table), 0
        for item in opener(source, None, lambda: 0.0, config.wanted_signals(table.source))(refuse):
            assert item is not None
            frame = Frame(item.number, item.t_source_s or 0.0, 0, item.data, item.t_source_s)
            outcome = handler.handle(frame, models[slot], Around())
            stream, row = outcome.rows[-1] if outcome.rows else (None, [])
            seq += stream is not None
            vehicle.keeper.see(Seen(slot, frame, stream, seq, row, False))
            if item.number % 100 == 0:
                drain(vehicle)
        drain(vehicle)


def drain(vehicle: Vehicle) -> None:
    """What the keeper's thread does, here."""
    keeper = vehicle.keeper
    while not keeper._queue.empty():
        came = keeper._queue.get_nowait()
        keeper._guarded(came.slot, partial(keeper._take, came))


def test_clips_of_signals_are_what_the_back_test_predicts_with_coarse_positions(
    config: Config, models: dict[str, Model], tmp_path: Path
) -> None:
    log = tmp_path / "drive.trace"
    write_trace(config, models, bytes, log, start_ms=0, passed_over=refuse)
    found = {one.campaign: one for one in predict([SLOW], read_trace(log))}
    assert found["slow"].items >= 2
    vehicle = Vehicle(config, (SLOW,))
    drive(vehicle, config, models, ("state",))
    items = vehicle.run()
    assert len(items) == found["slow"].items
    assert sum(item.size_bytes for item in items) == found["slow"].size_bytes
    assert {item.campaign for item in items} == {"slow"} and items[0].about_stream == "drive-state"
    for item in items:
        assert hashlib.sha256(item.data).hexdigest() == item.sha256
        with np.load(io.BytesIO(item.data), allow_pickle=False) as clip:
            assert 3.0 <= clip["t"][-1] - clip["t"][0] <= 8.0
            latitudes = clip[LATITUDE]
            step = 500.0 / 111_320
            assert np.allclose((latitudes / step) % 1.0, 0.5, atol=1e-6), "positions leave on the grid only"
            assert LONGITUDE in clip.files


def test_a_condition_sees_coarse_positions_only(config: Config, models: dict[str, Model]) -> None:
    seen: list[float] = []
    t_s = 0.0
    vehicle = Vehicle(config, (SLOW,))
    for item in opener(config.profile.sources["drive"], None, lambda: 0.0, None)(refuse):
        assert item is not None
        values = vehicle.keeper.board.put(Frame(item.number, item.t_source_s or 0.0, 0, item.data, item.t_source_s))
        seen.append(values[LATITUDE])
        t_s = item.t_source_s or 0.0
    now = vehicle.keeper.board.now(t_s)
    assert now[LATITUDE] == seen[-1]
    assert len({latitude for latitude in seen if not math.isnan(latitude)}) < 20


# Images.

UNSURE = Campaign(name="unsure", task="traffic-sign", when="confidence < 0.5", budget=Budget(bytes_per_day=6400))
SIGNS = """
hardware = "test"
[sources.camera]
kind = "made-signs"
[slots.sign]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = 5.0
"""


@pytest.fixture
def camera(tmp_path: Path) -> Config:
    (tmp_path / "vehicle.toml").write_text(VEHICLE)
    (tmp_path / "profile.toml").write_text(SIGNS)
    return load_config(tmp_path / "vehicle.toml")


def look(vehicle: Vehicle, numbers: range, confidence: float = 0.1, captured: bool = False) -> None:
    """Frames of 1000 bytes, each another."""
    for number in numbers:
        image = np.full((1000,), number % 251, dtype=np.uint8)
        row = [float(number), 1.0, confidence, confidence, 80.0, 1.0, 0.0, 0.0]
        frame = Frame(number, float(number), number, image)
        vehicle.keeper.see(Seen("sign", frame, SIGN_DECISION, number + 1, row, captured))
    drain(vehicle)


def test_a_days_budget_survives_a_kill(camera: Config) -> None:
    killed = Vehicle(camera, (UNSURE,))
    look(killed, range(5))
    assert len(killed.items) == 5  # and the process is gone, without a word
    sent = json.loads(camera.campaign_budgets_path.read_bytes())["bytes:sign/unsure"]
    assert sent >= 5000, "what was sent was on disk before it was sent"
    again = Vehicle(camera, (UNSURE,))
    look(again, range(100, 120))
    assert len(again.run()) == 2, "6400 bytes a day: the seventh item overdraws them"
    third = Vehicle(camera, (UNSURE,))
    look(third, range(200, 220))
    assert third.run() == []
    tomorrow = Vehicle(camera, (UNSURE,))
    tomorrow.now_s = 90_000.0
    look(tomorrow, range(300, 302))
    assert len(tomorrow.run()) == 2


def test_an_image_that_cannot_be_made_ready_to_leave_does_not_leave(camera: Config) -> None:
    def broken(image: ImageArray) -> bytes:
        raise BundleError("no detector")

    vehicle = Vehicle(camera, (UNSURE,), broken)
    look(vehicle, range(3))
    assert vehicle.run() == []


def test_a_full_pipe_costs_the_item_and_no_heartbeat(camera: Config) -> None:
    vehicle, beats = Vehicle(camera, (UNSURE,)), 0
    vehicle.pipe.room = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        vehicle.now_s += 0.5

    for number in range(2):
        image = np.full((1000,), number, dtype=np.uint8)
        row = [float(number), 1.0, 0.1, 0.1, 80.0, 1.0, 0.0, 0.0]
        vehicle.keeper.see(Seen("sign", Frame(number, 0.0, 0, image), SIGN_DECISION, number + 1, row, False))
    stop = threading.Event()
    stop.set()
    vehicle.keeper.run(stop, beat)
    assert vehicle.items == [] and beats > 20


def test_what_is_sent_already_is_not_sent_again(camera: Config) -> None:
    vehicle = Vehicle(camera, (UNSURE,))
    look(vehicle, range(2))
    look(vehicle, range(2), confidence=0.2)  # the same pictures again
    look(vehicle, range(2, 4), captured=True)  # the slot's own capture policy sends these
    assert len(vehicle.run()) == 2


def test_a_frame_is_passed_over_and_counted_where_the_keeper_cannot_follow(camera: Config) -> None:
    vehicle = Vehicle(camera, (UNSURE,))
    row = [0.0, 1.0, 0.1, 0.1, 80.0, 1.0, 0.0, 0.0]
    for number in range(300):
        frame = Frame(number, 0.0, 0, np.zeros(10, dtype=np.uint8))
        vehicle.keeper.see(Seen("sign", frame, SIGN_DECISION, number + 1, row, False))
    assert vehicle.keeper.passed_over == 300 - 256
    vehicle.run()


def test_a_slot_without_campaigns_costs_nothing(camera: Config) -> None:
    vehicle = Vehicle(camera, (SLOW,))
    look(vehicle, range(5))
    assert vehicle.keeper._queue.empty() and vehicle.run() == []


def test_a_shadow_that_disagrees_sends_the_frame_that_it_saw(camera: Config) -> None:
    other = Campaign(name="other", task="traffic-sign", when="disagreement == 1", budget=BUDGET)
    vehicle = Vehicle(camera, (other,))
    look(vehicle, range(10), confidence=0.9)
    vehicle.keeper.compared("sign", 7, False)
    vehicle.keeper.compared("sign", 4, True)
    drain(vehicle)
    (item,) = vehicle.run()
    assert item.about_seq == 5


def test_a_campaign_that_is_not_understood_is_reported_and_the_others_run(camera: Config) -> None:
    strange = Campaign(name="strange", task="traffic-sign", when="mood > 3", budget=BUDGET)
    vehicle = Vehicle(camera, (strange, UNSURE))
    report = Shelf(camera.campaigns_path).report
    assert report.version == 1 and report.error is not None
    assert "campaign strange: when: 'mood' is unknown" in report.error.detail
    look(vehicle, range(1))
    assert len(vehicle.run()) == 1


def test_the_shelf_keeps_the_newest(camera: Config) -> None:
    shelf = Shelf(camera.campaigns_path)
    assert shelf.take(Campaigns(version=3, campaigns=(UNSURE,)))
    assert not shelf.take(Campaigns(version=2, campaigns=()))
    assert Shelf(camera.campaigns_path).report.version == 3
    camera.campaigns_path.write_bytes(b'{"version": ')
    assert Shelf(camera.campaigns_path).report.version == 0, "damaged: the cloud's word comes again"
