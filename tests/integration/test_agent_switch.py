"""Switches in the real drive process: slots that are asked at once change at once, and no frame is lost over it."""

import time
from pathlib import Path

from roadloop_agent.ipc import FromDrive, Samples, SlotHealth, Switch, Switched, encode_ipc
from roadloop_models.bundle import Bundle
from roadloop_models.contract.streams import SIGN_DECISION
from tests.fakes.bundles import tiny_bundle
from tests.fakes.driving import WAIT_S, Driving
from tests.fakes.slow_bundle import slowed_bundle

SLOT = """
[slots.{name}]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = {rate}
"""
PROFILE = """
hardware = "test"
[sources.camera]
kind = "made-signs"
count = 50
loop = true
rate_hz = 50.0
"""
RELEASE = [field.name for field in SIGN_DECISION.fields].index("release")
SLOW_MS, CLOSE_MS = 1000, 750
"""The slow model takes at least so long to load; its slot has a frame every 500 ms."""


def test_slots_that_are_asked_at_once_change_at_once(tmp_path: Path) -> None:
    """The second one's model takes its time to load and to warm up; the first one waits for it."""
    quick = tiny_bundle(tmp_path / "quick")
    other = tiny_bundle(tmp_path / "other", "tiny-2", seed=1)
    slow = slowed_bundle(quick, tmp_path / "slow", products=150)
    profile = PROFILE + SLOT.format(name="first", rate=50.0) + SLOT.format(name="second", rate=2.0)
    driving = Driving(tmp_path / "van", {"first": quick, "second": quick}, profile)
    refs = {"first": driving.install("first", other, 2), "second": driving.install("second", slow, 3)}
    begun_ms: dict[int, int] = {}
    answered: list[Switched] = []

    def hear(message: FromDrive) -> None:
        if isinstance(message, Switched):
            answered.append(message)
        elif isinstance(message, Samples) and message.stream == SIGN_DECISION.name:
            for t_ms, row in zip(message.t_ms, message.rows, strict=True):
                begun_ms.setdefault(int(row[RELEASE]), t_ms)

    driving.hear = hear
    with driving:
        driving.listen(WAIT_S, lambda: 1 in begun_ms)
        asked_ms = time.time_ns() // 1_000_000
        for slot, ref in refs.items():
            directory = str(driving.store.version_directory(ref))
            driving.send(encode_ipc(Switch(slot=slot, ref=ref, bundle_dir=directory)))
        driving.listen(WAIT_S, lambda: {2, 3} <= set(begun_ms) and len(answered) == len(refs))
    assert all(answer.ok for answer in answered)
    assert begun_ms[3] - asked_ms > SLOW_MS, "else this shows nothing"
    assert begun_ms[2] > begun_ms[3] - CLOSE_MS


def test_a_switch_drops_no_frame(tmp_path: Path) -> None:
    bundle: Bundle = tiny_bundle(tmp_path / "bundle")
    driving = Driving(tmp_path / "van", {"first": bundle}, PROFILE + SLOT.format(name="first", rate=50.0))
    first = driving.store.slot("first").confirmed
    second = driving.install("first", tiny_bundle(tmp_path / "other", "tiny-2", seed=1), 2)
    dropped: list[int] = []

    def hear(message: FromDrive) -> None:
        if isinstance(message, SlotHealth):
            dropped.append(message.dropped)

    driving.hear = hear
    with driving:
        driving.listen(WAIT_S, lambda: len(dropped) >= 2)
        before = dropped[-1]
        for ref in (second, first, second, first):
            driving.switch("first", ref)
        count = len(dropped)
        driving.listen(WAIT_S, lambda: len(dropped) > count + 1)
    assert dropped[-1] - before <= 1, "one may be the machine's own doing"
