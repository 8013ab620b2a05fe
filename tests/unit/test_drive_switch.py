"""Drive's main thread when it is asked to switch, and when it starts: without processes, models or sources."""

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from roadloop_agent.drive import process
from roadloop_agent.drive.process import Drive
from roadloop_agent.ipc import FromDrive, FromLink, Switch, Switched, Watch
from roadloop_agent.update.state import Ended, SlotState
from roadloop_agent.update.store import InstalledVersion
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import BundleError, DiskFullError, RoadloopError

TASK = "traffic-sign"


def ref(release: int) -> ReleaseRef:
    return ReleaseRef(task=TASK, release=release, version=f"v{release}", manifest_sha256=f"{release:064x}")


class FakeModel:
    def __init__(self, wanted: ReleaseRef) -> None:
        self.ref = wanted
        self.closed = False
        self.variant = SimpleNamespace(runtime="onnx", precision="int8")
        self.runner = SimpleNamespace(providers=())

    def close(self) -> None:
        self.closed = True


class FakeSlot:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.table = SimpleNamespace(variant_key="onnx-int8", providers=(), runtime="onnx", precision="int8")
        self.running: FakeModel | None = None
        self._log = log

    def offer(self, model: FakeModel) -> None:
        self.running = model
        self._log.append(f"{self.name} runs {model.ref.release}")


class FakeVersions:
    """The store, as far as drive knows it: two slots on trial together."""

    def __init__(self, *, disk_full: bool = False) -> None:
        self.disk_full = disk_full
        group = ("a", "b")
        self.slots = {slot: SlotState(confirmed=ref(1), trial=ref(2), tries_left=9, group=group) for slot in group}

    def start(self, slots: Iterable[str]) -> dict[str, InstalledVersion | RoadloopError]:
        known = {slot: self.slots[slot] for slot in slots}
        return {
            slot: InstalledVersion(state.confirmed, Path("v"), on_trial=False)
            if state.trial is None
            else InstalledVersion(state.trial, Path("v"), on_trial=True)
            for slot, state in known.items()
        }

    def slot(self, slot: str) -> SlotState:
        return self.slots[slot]

    def take_back(self, ended: Mapping[str, Ended]) -> dict[str, SlotState]:
        if self.disk_full:
            self.disk_full = False
            raise DiskFullError("full")
        self.slots = {slot: SlotState(confirmed=state.confirmed) for slot, state in self.slots.items()}
        return self.slots


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, versions: FakeVersions | None = None) -> None:
        self.log: list[str] = []
        self.inbox: deque[FromLink] = deque()
        self.sent: list[FromDrive] = []
        self.broken: set[tuple[str, int]] = set()
        self.slots = {name: FakeSlot(name, self.log) for name in ("a", "b")}
        self.loads: list[FakeModel] = []
        monkeypatch.setattr(process, "load_model", self._load)
        nothing = cast(Any, SimpleNamespace(beat=lambda part: None, listened=False, started=lambda: None))
        self.drive = Drive(
            boot=1,
            slots=cast(Any, list(self.slots.values())),
            captures=[],
            regulator=nothing,
            roll=nothing,
            outbox=cast(Any, SimpleNamespace(send=self.sent.append)),
            observer=nothing,
            keeper=nothing,
            announcer=nothing,
            pipe=cast(Any, SimpleNamespace(receive_from_link=lambda: self.inbox.popleft() if self.inbox else None)),
            versions=versions or FakeVersions(),
            keys=nothing,
            heartbeat=nothing,
            health_period_s=1.0,
            shadows=nothing,
            parking=nothing,
            tidy=nothing,
            clock=lambda: 0.0,
            wall_ms=lambda: 0,
        )

    def _load(self, directory: Path, variant: str, wanted: ReleaseRef, *_: object) -> FakeModel:
        self.log.append(f"release {wanted.release} is loaded")
        if ("any", wanted.release) in self.broken:
            raise BundleError("broken")
        self.loads.append(FakeModel(wanted))
        return self.loads[-1]

    def ask(self, *messages: FromLink) -> None:
        self.inbox.extend(messages[1:])
        self.drive._hear(messages[0])
        self.drive._settle_switches()


def switch(slot: str, release: int) -> Switch:
    return Switch(slot=slot, ref=ref(release), bundle_dir="v")


def test_slots_that_are_asked_at_once_change_when_all_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    rig.ask(switch("a", 2), Watch(on=True), switch("b", 3))
    assert rig.log == ["release 2 is loaded", "release 3 is loaded", "a runs 2", "b runs 3"]
    assert [(said.slot, said.ok) for said in rig.sent if isinstance(said, Switched)] == [("a", True), ("b", True)]
    assert rig.drive._announcer.listened


def test_what_is_asked_last_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    rig.ask(switch("a", 2), switch("a", 3))
    assert rig.log[-1] == "a runs 3" and "a runs 2" not in rig.log
    assert [model.closed for model in rig.loads] == [True, False]


def test_a_release_that_does_not_load_leaves_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch)
    rig.broken.add(("any", 3))
    rig.ask(switch("a", 2), switch("b", 3))
    assert {said.slot: said.ok for said in rig.sent if isinstance(said, Switched)} == {"a": True, "b": False}
    assert rig.slots["b"].running is None


@pytest.mark.parametrize("disk_full", [False, True], ids=["disk-well", "disk-full"])
def test_slots_on_trial_together_start_together_or_go_back_together(
    monkeypatch: pytest.MonkeyPatch, disk_full: bool
) -> None:
    rig = Rig(monkeypatch, FakeVersions(disk_full=disk_full))
    loaded = rig._load

    def load(directory: Path, variant: str, wanted: ReleaseRef, *more: object) -> FakeModel:
        if wanted.release == 2 and len(rig.loads) % 2 == 1:
            raise BundleError("the second slot's model does not load")
        return loaded(directory, variant, wanted, *more)

    monkeypatch.setattr(process, "load_model", load)
    rig.drive._start_slots()
    assert [slot.running.ref.release for slot in rig.slots.values() if slot.running] == [1, 1]
