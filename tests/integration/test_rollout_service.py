"""Rollouts on a real database: what the plan decides becomes desired states, and nothing is applied twice."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.fleet import desired
from roadloop_cloud.rollout.service import Rollouts, Settings, Target
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import DesiredState, Release, RolloutClaim
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef, Reported, ReportedSlot, UpdateState
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError
from tests.fakes.cloud import fresh_database
from tests.fakes.registry import Registry

TASK = "traffic-sign"
FAST = Settings(waves=("1", "100%"), soak_s=0.0, error_threshold=0.0)


def ref(release: int, task: str = TASK) -> ReleaseRef:
    return ReleaseRef(task=task, release=release, version=f"v{release}", manifest_sha256=f"{release}" * 64)


class Fleet:
    """Rollouts over vehicles that say what the test lets them say."""

    def __init__(self, root: Path) -> None:
        fresh_database(root).close()
        registry = Registry(root)
        self.database = registry.database
        self.now_s = 1_000.0
        self.rollouts = Rollouts(self.database, registry.releases, RolloutConfig(), lambda: self.now_s)
        with self.database.transaction() as session:
            for task in (TASK, "traffic-speed"):
                for number in (1, 2, 3):
                    made = ref(number, task)
                    session.add(
                        Release(
                            task=task,
                            release=number,
                            version=made.version,
                            manifest_sha256=made.manifest_sha256,
                            published=now_utc(),
                        )
                    )

    def add(self, name: str, tags: tuple[str, ...] = (), running: int | None = 1) -> None:
        with self.database.transaction() as session:
            session.add(
                Vehicle(id=name, hardware="x86-64", profile="p", tags=list(tags), created=now_utc(), online=True)
            )
        if running is not None:
            self.says(name, "idle", running)

    def says(
        self, name: str, state: UpdateState, running: int, target: int | None = None, desired_version: int = 0
    ) -> None:
        error = ErrorInfo(code="trust-refused", detail="hash") if state in ("refused", "rolled-back") else None
        slot = ReportedSlot(
            task=TASK,
            running=ref(running),
            runtime="onnx",
            precision="int8",
            state=state,
            target=None if target is None else ref(target),
            error=error,
        )
        other = ReportedSlot(task="traffic-speed", running=ref(1, "traffic-speed"), runtime="onnx", precision="int8",
                             state="idle")  # fmt: skip
        report = Reported(
            boot=1,
            agent_version="0.1.0",
            hardware="x86-64",
            desired_version=desired_version,
            slots={"sign": slot, "speed": other},
        )
        with self.database.transaction() as session:
            vehicle = session.get_one(Vehicle, name)
            vehicle.reported = msgspec.to_builtins(report)
            desired.catch_up(session, vehicle)

    def tick(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        self.rollouts.tick()

    def wanted(self, name: str) -> tuple[int, int] | None:
        """Desired version, release of the slot."""
        with self.database.reading() as session:
            row = session.get(DesiredState, name)
            return None if row is None else (row.version, row.slots["sign"]["release"])

    def desired_row(self, name: str) -> dict[str, Any]:
        with self.database.reading() as session:
            return dict(session.get_one(DesiredState, name).slots)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    made = Fleet(tmp_path)
    for index in range(4):
        made.add(f"v{index}", tags=("test",) if index < 2 else ())
    return made


def test_waves_become_desired_states_one_after_the_other(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), FAST)
    assert all(fleet.wanted(f"v{index}") is None for index in range(4))
    fleet.tick()
    first = [name for name in ("v0", "v1", "v2", "v3") if fleet.wanted(name) is not None]
    assert len(first) == 1
    assert fleet.wanted(first[0]) == (1, 2)
    fleet.says(first[0], "idle", 2)
    fleet.tick()
    assert [fleet.wanted(f"v{index}") for index in range(4)] == [(1, 2)] * 4
    for index in range(4):
        fleet.says(f"v{index}", "idle", 2)
    fleet.tick()
    assert fleet.rollouts.show(rollout).state == "succeeded"
    with fleet.database.reading() as session:
        assert session.query(RolloutClaim).count() == 0


def test_a_tick_more_changes_nothing(fleet: Fleet) -> None:
    fleet.rollouts.create(TASK, 2, Target(everyone=True), Settings(waves=("100%",)))
    fleet.tick()
    before = [fleet.wanted(f"v{index}") for index in range(4)]
    fleet.tick(0)
    fleet.tick()
    assert [fleet.wanted(f"v{index}") for index in range(4)] == before


def test_a_refused_release_is_taken_back_everywhere(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), Settings(waves=("50%", "100%"), soak_s=0.0))
    fleet.tick()
    offered = [name for name in ("v0", "v1", "v2", "v3") if fleet.wanted(name)]
    fleet.says(offered[0], "idle", 2)
    fleet.says(offered[1], "refused", 1, target=2)
    fleet.tick()
    view = fleet.rollouts.show(rollout)
    assert view.state == "failed"
    assert "trust-refused" in view.reason
    assert [fleet.wanted(name) for name in offered] == [(2, 1), (2, 1)]
    assert len([name for name in ("v0", "v1", "v2", "v3") if fleet.wanted(name)]) == 2, "the rest was never offered it"
    fleet.rollouts.create(TASK, 3, Target(everyone=True), FAST)


def test_only_slots_of_the_task_are_touched(fleet: Fleet) -> None:
    fleet.rollouts.create(TASK, 2, Target(("v0",)), FAST)
    fleet.rollouts.create("traffic-speed", 3, Target(("v0",)), FAST)
    fleet.tick()
    slots = fleet.desired_row("v0")
    assert (slots["sign"]["release"], slots["speed"]["release"]) == (2, 3)


def test_the_second_rollout_of_a_vehicle_and_task_is_refused(fleet: Fleet) -> None:
    first = fleet.rollouts.create(TASK, 2, Target(("v0", "v1")), FAST)
    with pytest.raises(ConflictError, match=f"rollout {first}"):
        fleet.rollouts.create(TASK, 3, Target(everyone=True), FAST)
    fleet.rollouts.create(TASK, 3, Target(("v2",)), FAST)
    fleet.rollouts.abort(first)
    fleet.rollouts.create(TASK, 3, Target(("v0",)), FAST)


def test_targets(fleet: Fleet) -> None:
    fleet.add("silent", running=None)
    view = fleet.rollouts.show(fleet.rollouts.create(TASK, 2, Target(tags=("test",)), FAST))
    assert {member.vehicle for member in view.members} == {"v0", "v1"}
    view = fleet.rollouts.show(fleet.rollouts.create("traffic-speed", 2, Target(everyone=True), FAST))
    assert {member.vehicle for member in view.members} == {"v0", "v1", "v2", "v3"}
    with pytest.raises(NotFoundError, match="v9"):
        fleet.rollouts.create(TASK, 2, Target(("v9",)), FAST)
    with pytest.raises(BadInputError, match="silent"):
        fleet.rollouts.create(TASK, 2, Target(("silent",)), FAST)
    with pytest.raises(BadInputError, match="nothing|no vehicle"):
        fleet.rollouts.create(TASK, 2, Target(tags=("nobody",)), FAST)


def test_bad_settings_are_refused(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="success_threshold"):
        fleet.rollouts.create(TASK, 2, Target(everyone=True), Settings(success_threshold=1.5))
    with pytest.raises(ConfigError, match="wave"):
        fleet.rollouts.create(TASK, 2, Target(everyone=True), Settings(waves=("1", "2")))
    with pytest.raises(NotFoundError, match="release 9"):
        fleet.rollouts.create(TASK, 9, Target(everyone=True), FAST)


def test_pause_resume_and_abort(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), FAST)
    assert fleet.rollouts.pause(rollout).state == "paused"
    fleet.tick()
    assert all(fleet.wanted(f"v{index}") is None for index in range(4))
    assert fleet.rollouts.resume(rollout).state == "running"
    fleet.tick()
    assert sum(fleet.wanted(f"v{index}") is not None for index in range(4)) == 1
    assert fleet.rollouts.abort(rollout).state == "aborted"
    assert {fleet.wanted(f"v{index}") for index in range(4)} == {None, (2, 1)}
    with pytest.raises(ConflictError, match="aborted"):
        fleet.rollouts.resume(rollout)
    with pytest.raises(NotFoundError, match="99"):
        fleet.rollouts.pause(99)


def test_a_restored_cloud_overtakes_the_vehicle(fleet: Fleet) -> None:
    fleet.says("v0", "idle", 1, desired_version=41)
    fleet.rollouts.create(TASK, 2, Target(("v0",)), FAST)
    fleet.tick()
    assert fleet.wanted("v0") == (42, 2)
    fleet.says("v0", "idle", 3, desired_version=77)
    assert fleet.wanted("v0") == (78, 2)


def test_what_the_broker_has_is_not_published_again(fleet: Fleet) -> None:
    fleet.rollouts.create(TASK, 2, Target(("v0", "v1")), Settings(waves=("100%",), fetch_bytes_per_s=5_000))
    fleet.tick()
    with fleet.database.transaction() as session:
        due = dict(desired.unpublished(session))
        assert {vehicle: state.version for vehicle, state in due.items()} == {"v0": 1, "v1": 1}
        assert due["v0"].policy == Policy(fetch_bytes_per_s=5_000)
        desired.mark_published(session, "v0", 1)
        assert [vehicle for vehicle, _ in desired.unpublished(session)] == ["v1"]
        desired.forget_published(session)
        assert len(desired.unpublished(session)) == 2
