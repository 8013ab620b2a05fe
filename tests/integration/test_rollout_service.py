"""Rollouts on a real database: what the plan decides becomes desired states, and nothing is applied twice."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import select
from sqlalchemy.orm import Session

from roadloop_cloud.config import RolloutConfig
from roadloop_cloud.fleet import desired
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.rollout.approvals import APPROVAL
from roadloop_cloud.rollout.service import Rollouts, Settings, Target
from roadloop_cloud.rollout.spec import ShadowSpec, spec_sha256
from roadloop_cloud.rollout.statements import Operators, Signatory
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import DesiredState, RolloutApproval, RolloutClaim, RolloutMember, RolloutRow
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import (
    ErrorInfo,
    Policy,
    ReleaseRef,
    Reported,
    ReportedSlot,
    ShadowReport,
    UpdateState,
)
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError, TrustError
from tests.fakes.opaque_bundles import TASK, opaque_bundle
from tests.fakes.registry import Registry

FAST = Settings(waves=("1", "100%"), soak_s=0.0, error_threshold=0.0)
SPEED = "traffic-speed"


class Fleet:
    """Rollouts over vehicles that say what the test lets them say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = Registry(root)
        self.database = self.registry.database
        self.now_s = 1_000.0
        self.operators = Operators(root / "operators")
        self.rollouts = self.restarted()
        found = self.registry.releases.list()
        self.refs = {(row.task, row.release): release_ref(row) for row in found}

    def restarted(self) -> Rollouts:
        """The service as a new process has it."""
        self.rollouts = Rollouts(
            self.database, self.registry.releases, RolloutConfig(), lambda: self.now_s, self.operators
        )
        return self.rollouts

    def ref(self, release: int, task: str = TASK) -> ReleaseRef:
        return self.refs[(task, release)]

    def add(
        self, name: str, tags: tuple[str, ...] = (), running: int | None = 1, hardware: str = "x86-64", **more: Any
    ) -> None:
        with self.database.transaction() as session:
            session.add(
                Vehicle(
                    id=name,
                    hardware=hardware,
                    profile="p",
                    tags=list(tags),
                    created=now_utc(),
                    **{"online": True, "agent_version": "0.1.0", **more},
                )
            )
        if running is not None:
            self.says(name, "idle", running)

    def says(
        self,
        name: str,
        state: UpdateState,
        running: int,
        target: int | None = None,
        desired_version: int = 0,
        runtime: str = "onnx",
        speed: int = 1,
        shadow: ShadowReport | None = None,
    ) -> None:
        error = ErrorInfo(code="trust-refused", detail="hash") if state in ("refused", "rolled-back") else None
        slot = ReportedSlot(
            task=TASK,
            running=self.ref(running),
            runtime=runtime,
            precision="int8",
            state=state,
            target=None if target is None else self.ref(target),
            error=error,
            shadow=shadow,
        )
        other = ReportedSlot(task=SPEED, running=self.ref(speed, SPEED), runtime="onnx", precision="int8", state="idle")
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
            vehicle.reported_at = now_utc()
            row = session.get(DesiredState, name)
            if row is not None:
                desired.overtake(row, report)

    def step(self) -> None:
        """A tick of whichever process lives."""
        self.rollouts.tick()

    def tick(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        self.rollouts.tick()

    def wanted(self, name: str) -> tuple[int, int] | None:
        """Desired version, release of the slot."""
        with self.database.reading() as session:
            row = session.get(DesiredState, name)
            return None if row is None or "sign" not in row.slots else (row.version, row.slots["sign"]["release"])

    def desired_row(self, name: str) -> dict[str, Any]:
        with self.database.reading() as session:
            return dict(session.get_one(DesiredState, name).slots)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: releases 1 to 3 of two tasks."""
    root = tmp_path_factory.mktemp("fleet")
    registry = Registry(root).create()
    for task in (TASK, SPEED):
        for version in ("v1", "v2", "v3"):
            oldest = "9.0.0" if (task, version) == (SPEED, "v3") else "0.1.0"
            made = opaque_bundle(root / "made" / task / version, version, task=task, min_agent_version=oldest)
            registry.models.register(made.directory)
            registry.releases.publish(task, version)
    registry.database.close()
    return root


@pytest.fixture
def fleet(tmp_path: Path, workspace: Path) -> Fleet:
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
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
    fleet.rollouts.create(SPEED, 2, Target(("v0",)), FAST)
    fleet.tick()
    slots = fleet.desired_row("v0")
    assert (slots["sign"]["release"], slots["speed"]["release"]) == (2, 2)


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
    view = fleet.rollouts.show(fleet.rollouts.create(SPEED, 2, Target(everyone=True), FAST))
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
        due = dict(desired.LEVELS.unpublished(session))
        assert {vehicle: state.version for vehicle, state in due.items()} == {"v0": 1, "v1": 1}
        assert due["v0"].policy == Policy(fetch_bytes_per_s=5_000)
        desired.LEVELS.mark_published(session, {"v0": 1})
        assert [vehicle for vehicle, _ in desired.LEVELS.unpublished(session)] == ["v1"]
        desired.LEVELS.forget_published(session)
        assert len(desired.LEVELS.unpublished(session)) == 2


# Who takes part


def test_those_who_cannot_take_it_are_left_out_with_the_reason(fleet: Fleet) -> None:
    fleet.says("v0", "idle", 2)
    fleet.says("v1", "rolled-back", 1, target=2)
    fleet.says("v2", "idle", 1, runtime="hexagon")
    made = fleet.rollouts.prepare(TASK, 2, Target(everyone=True), FAST)
    assert [one.vehicle for one in made.order] == ["v3"]
    assert made.selection.left_out["v0"] == "runs it already"
    assert "took release 2 back before (trust-refused)" in made.selection.left_out["v1"]
    assert "hexagon-int8" in made.selection.left_out["v2"]
    with pytest.raises(BadInputError, match="runs it already"):
        fleet.rollouts.create(TASK, 2, Target(("v0",)), FAST)
    old = fleet.rollouts.prepare(SPEED, 3, Target(everyone=True), FAST)
    assert {reason.split(":")[0] for reason in old.selection.left_out.values()} == {"agent 0.1.0 is too old"}


def test_a_release_that_failed_is_not_offered_again(fleet: Fleet) -> None:
    fleet.rollouts.create(TASK, 2, Target(("v0",)), FAST)
    fleet.tick()
    fleet.says("v0", "rolled-back", 1, target=2)
    fleet.tick()
    fleet.says("v0", "idle", 1)  # its own word is gone, the cloud's memory is not
    with pytest.raises(BadInputError, match="trust-refused"):
        fleet.rollouts.create(TASK, 2, Target(("v0",)), FAST)
    fleet.rollouts.create(TASK, 3, Target(("v0",)), FAST)


def test_targets_by_hardware_and_share(fleet: Fleet) -> None:
    for number in range(20):
        fleet.add(f"pi-{number}", hardware="pi-4")
    half = Target(hardware=("pi-4",), share=0.5)
    first, again = (fleet.rollouts.prepare(TASK, 2, half, FAST).order for _ in range(2))
    assert len(first) == 10
    assert {one.vehicle for one in first} == {one.vehicle for one in again}
    assert all(one.hardware == "pi-4" for one in first)


def test_who_matches_later_joins_the_last_wave(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(TASK, 2, Target(tags=("test",)), Settings(waves=("1", "100%"), soak_s=0.0))
    fleet.add("late", tags=("test",))
    fleet.add("other")
    fleet.tick(60)
    members = {member.vehicle: member.wave for member in fleet.rollouts.show(rollout).members}
    assert members["late"] == 1
    assert "other" not in members
    assert fleet.wanted("late") is None, "it takes its turn"
    everybody_obeys(fleet)
    assert fleet.wanted("late") == (1, 2)
    fixed = fleet.rollouts.create(TASK, 3, Target(everyone=True), Settings(late_joiners=False))
    fleet.add("later")
    fleet.tick(60)
    assert "later" not in {member.vehicle for member in fleet.rollouts.show(fixed).members}


def test_a_damaged_bundle_stops_no_rollout_that_goes_on(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), FAST)
    (fleet.registry.models.directory(TASK, "v2") / "model.onnx").write_bytes(b"torn")
    fleet.restarted()
    fleet.tick(60)
    assert sum(member.state == "offered" for member in fleet.rollouts.show(rollout).members) == 1


def everybody_obeys(fleet: Fleet, rounds: int = 6) -> None:
    for _ in range(rounds):
        with fleet.database.reading() as session:
            rows = session.scalars(select(DesiredState)).all()
        for row in rows:
            sign = row.slots.get("sign", {"release": 1})["release"]
            fleet.says(row.vehicle, "idle", sign, speed=row.slots.get("speed", {"release": 1})["release"])
        fleet.tick()


def test_releases_that_go_together(fleet: Fleet) -> None:
    rollout = fleet.rollouts.create(TASK, 2, Target(("v0",)), FAST, also=[(SPEED, 2)])
    with pytest.raises(ConflictError, match=f"rollout {rollout}"):
        fleet.rollouts.create(SPEED, 2, Target(("v0",)), FAST)
    fleet.tick()
    with fleet.database.reading() as session:
        row = session.get_one(DesiredState, "v0")
        assert row.together
        assert {name: ref["release"] for name, ref in row.slots.items()} == {"sign": 2, "speed": 2}
    fleet.says("v0", "idle", 2, speed=1)
    fleet.tick()
    assert fleet.rollouts.show(rollout).state == "running"
    fleet.says("v0", "idle", 2, speed=2)
    fleet.tick()
    assert fleet.rollouts.show(rollout).state == "succeeded"


def test_a_group_that_has_not_switched_stays_a_group(fleet: Fleet) -> None:
    both = {"sign": fleet.ref(2), "speed": fleet.ref(2, SPEED)}
    with fleet.database.transaction() as session:
        vehicle = session.get_one(Vehicle, "v0")
        desired.assign(session, vehicle, both, Policy(), together=True)
        desired.assign(session, vehicle, {"speed": fleet.ref(1, SPEED)}, Policy())
        assert session.get_one(DesiredState, "v0").together, "sign is still on its way"
    fleet.says("v0", "idle", 2, speed=1)
    with fleet.database.transaction() as session:
        desired.assign(session, session.get_one(Vehicle, "v0"), {"speed": fleet.ref(2, SPEED)}, Policy())
        assert not session.get_one(DesiredState, "v0").together


# Cohorts


def slice_of_pis(fleet: Fleet) -> int:
    """A rollout in which what runs on a pi takes it back."""
    for number in range(4):
        fleet.add(f"pi-{number}", hardware="pi-4")
    settings = Settings(waves=("100%",), soak_s=0.0, error_threshold=0.4, min_executed=2)
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), settings)
    fleet.tick()
    for number in range(4):
        fleet.says(f"v{number}", "idle", 2)
    for number in range(2):
        fleet.says(f"pi-{number}", "rolled-back", 1, target=2)
    fleet.tick()
    return rollout


def test_the_cohort_that_suffers_gets_its_old_release_and_the_rest_keeps_the_new_one(fleet: Fleet) -> None:
    view = fleet.rollouts.show(slice_of_pis(fleet))
    assert view.state == "succeeded"
    assert "pi-4" in view.reason
    assert {fleet.wanted(f"pi-{n}") for n in range(4)} == {(2, 1)}
    assert {fleet.wanted(f"v{n}") for n in range(4)} == {(1, 2)}
    assert fleet.registry.releases.incumbent(TASK).release == 2


def test_a_latecomer_of_the_cohort_that_suffers_stays_out(fleet: Fleet) -> None:
    for number in range(2):
        fleet.add(f"pi-{number}", hardware="pi-4")
    settings = Settings(waves=("100%",), soak_s=1e6, error_threshold=0.4, min_executed=2)
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), settings)
    fleet.tick()
    for number in range(2):
        fleet.says(f"pi-{number}", "rolled-back", 1, target=2)
    fleet.tick()
    fleet.add("pi-late", hardware="pi-4")
    fleet.add("x86-late")
    fleet.tick(60)
    members = {member.vehicle for member in fleet.rollouts.show(rollout).members}
    assert "x86-late" in members
    assert "pi-late" not in members


def test_a_success_can_be_taken_back_from_all(fleet: Fleet) -> None:
    rollout = slice_of_pis(fleet)
    view = fleet.rollouts.roll_back(rollout)
    assert view.state == "failed"
    assert {fleet.wanted(f"v{n}") for n in range(4)} == {(2, 1)}
    assert fleet.registry.releases.incumbent(TASK).release == 1
    with pytest.raises(ConflictError, match="has ended"):
        fleet.rollouts.roll_back(rollout)


def test_what_a_newer_rollout_gave_is_not_taken_back(fleet: Fleet) -> None:
    first = fleet.rollouts.create(TASK, 2, Target(("v0",)), FAST)
    fleet.tick()
    everybody_obeys(fleet, 2)
    fleet.rollouts.create(TASK, 3, Target(("v0",)), FAST)
    fleet.tick()
    fleet.rollouts.roll_back(first)
    assert fleet.wanted("v0") == (2, 3)


# Approvals


def test_another_person_must_approve(fleet: Fleet, tmp_path: Path) -> None:
    ann, bob = (operator(fleet, tmp_path, name) for name in ("ann", "bob"))
    settings = Settings(waves=("1", "100%"), soak_s=0.0, approvals=1)
    with pytest.raises(BadInputError, match="--as"):
        fleet.rollouts.create(TASK, 2, Target(everyone=True), settings)
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), settings, author=ann)
    fleet.tick()
    assert offered(fleet) == 0
    with pytest.raises(ConflictError, match="somebody else"):
        fleet.rollouts.approve(rollout, ann)
    with pytest.raises(TrustError, match="not the one"):
        fleet.rollouts.approve(rollout, Signatory("bob", ann._key))
    fleet.rollouts.approve(rollout, bob)
    fleet.tick()
    assert offered(fleet) == 1
    everybody_obeys(fleet, 2)
    assert offered(fleet) == 1, "the second wave waits for its own approval"
    fleet.rollouts.approve(rollout, bob)
    fleet.tick()
    assert offered(fleet) == 4


def test_a_true_signature_on_another_rollout_or_by_its_creator_does_not_count(fleet: Fleet, tmp_path: Path) -> None:
    ann, bob = (operator(fleet, tmp_path, name) for name in ("ann", "bob"))
    settings = Settings(waves=("100%",), approvals=1)
    target = Target(tags=("test",))
    first = fleet.rollouts.create(TASK, 2, target, settings, author=ann)
    fleet.rollouts.abort(first)
    second = fleet.rollouts.create(TASK, 2, target, settings, author=ann)
    with fleet.database.transaction() as session:
        statement = {"wave": 1, "decision": "approve", "time": "now"}
        own = {"rollout": second, "spec_sha256": spec_sha256(fleet.rollouts.show(second).spec), **statement}
        other = {**own, "rollout": first}
        for signed in (ann.sign(APPROVAL, own), bob.sign(APPROVAL, other)):
            raw = msgspec.to_builtins(signed)
            session.add(RolloutApproval(rollout_id=second, operator=signed.operator, signed=raw, received=now_utc()))
    fleet.tick()
    assert offered(fleet) == 0
    with fleet.database.transaction() as session:
        raw = msgspec.to_builtins(bob.sign(APPROVAL, own))
        session.add(RolloutApproval(rollout_id=second, operator="bob", signed=raw, received=now_utc()))
    fleet.tick()
    assert offered(fleet) == 2


def test_what_a_program_asks_for_any_operator_may_approve(fleet: Fleet, tmp_path: Path) -> None:
    ann = operator(fleet, tmp_path, "ann")
    settings = Settings(waves=("100%",), approvals=1)
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), settings, unattended=True)
    fleet.tick()
    assert offered(fleet) == 0
    fleet.rollouts.approve(rollout, ann)
    fleet.tick()
    assert offered(fleet) == 4


@pytest.mark.parametrize("tamper", ["signature", "statement", "spec", "operator"])
def test_an_approval_that_was_not_signed_for_this_does_not_count(fleet: Fleet, tmp_path: Path, tamper: str) -> None:
    ann, bob = (operator(fleet, tmp_path, name) for name in ("ann", "bob"))
    settings = Settings(waves=("100%",), approvals=1)
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), settings, author=ann)
    fleet.rollouts.approve(rollout, bob)
    with fleet.database.transaction() as session:
        row = session.get_one(RolloutRow, rollout)
        word = session.scalars(select(RolloutApproval).where(RolloutApproval.operator == "bob")).one()
        if tamper == "signature":
            word.signed = {**word.signed, "signature": "AAAA"}
        elif tamper == "statement":
            word.signed = {**word.signed, "statement": {**word.signed["statement"], "rollout": 77}}
        elif tamper == "spec":
            row.spec = {**row.spec, "release": msgspec.to_builtins(fleet.ref(3))}
        row.revision += 1
    if tamper == "operator":
        fleet.operators.remove("bob")
    fleet.tick()
    assert offered(fleet) == 0


def test_nobody_approves_by_somebody_elses_creation(fleet: Fleet, tmp_path: Path) -> None:
    ann, bob = (operator(fleet, tmp_path, name) for name in ("ann", "bob"))
    settings = Settings(waves=("100%",), approvals=1)
    rollout = fleet.rollouts.create(TASK, 2, Target(everyone=True), settings, author=ann)
    with fleet.database.transaction() as session:
        made = session.scalars(select(RolloutApproval).where(RolloutApproval.operator == "ann")).one()
        forged = {**made.signed, "kind": "rollout-approval"}
        session.add(RolloutApproval(rollout_id=rollout, operator="ann", signed=forged, received=now_utc()))
        session.get_one(RolloutRow, rollout).created_by = "bob"
        session.get_one(RolloutRow, rollout).revision += 1
    fleet.tick()
    assert offered(fleet) == 0
    assert bob.name == "bob"


def operator(fleet: Fleet, folder: Path, name: str) -> Signatory:
    fleet.operators.add(name, folder / f"{name}.pem")
    return Signatory.load(name, folder / f"{name}.pem")


def offered(fleet: Fleet) -> int:
    return sum(fleet.wanted(f"v{n}") is not None for n in range(4))


# The cloud dies in the middle


class KilledError(Exception):
    """The process is gone."""


@contextmanager
def killing(fleet: Fleet, at: int, after_commit: bool) -> Iterator[list[int]]:
    """The `at`-th transaction from now on is the process's last: before its commit, or just after it."""
    real, count = fleet.database.transaction, [0]

    @contextmanager
    def transaction() -> Iterator[Session]:
        count[0] += 1
        mine = count[0]
        with real() as session:
            yield session
            if mine == at and not after_commit:
                raise KilledError
        if mine == at:
            raise KilledError

    fleet.database.transaction = transaction  # type: ignore[method-assign]
    try:
        yield count
    finally:
        fleet.database.transaction = real  # type: ignore[method-assign]


def story_of_cohorts(fleet: Fleet, act: Callable[[Callable[[], object]], None]) -> None:
    """Three waves; the pis fail in the second and are taken back, the others finish."""
    settings = Settings(waves=("2", "6", "100%"), soak_s=5.0, min_executed=2)
    act(lambda: None if fleet.rollouts.list() else fleet.rollouts.create(TASK, 2, Target(everyone=True), settings))
    for _ in range(12):
        act(fleet.step)
        for number in range(4):
            obey(fleet, f"v{number}", "idle")
            obey(fleet, f"pi-{number}", "rolled-back")
        fleet.now_s += 3.0


def story_of_an_abort(fleet: Fleet, act: Callable[[Callable[[], object]], None]) -> None:
    """A wave succeeds, a person pauses, resumes, and ends it with everything taken back."""
    settings = Settings(waves=("3", "100%"), soak_s=5.0)
    act(lambda: None if fleet.rollouts.list() else fleet.rollouts.create(TASK, 2, Target(everyone=True), settings))
    steps: list[Callable[[], object]] = [
        fleet.step,
        lambda: fleet.rollouts.pause(1),
        fleet.step,
        lambda: fleet.rollouts.resume(1),
        fleet.step,
        lambda: fleet.rollouts.show(1).state == "aborted" or fleet.rollouts.abort(1, take_back_all=True),
        fleet.step,
    ]
    for step in steps:
        act(step)
        for number in range(4):
            obey(fleet, f"v{number}", "idle")
        fleet.now_s += 6.0


def story_of_a_shadow(fleet: Fleet, act: Callable[[Callable[[], object]], None]) -> None:
    """Two waves that a person approves, each of which runs it in the shadow until the test decides."""
    who = ["ann", "bob"]
    keys = {name: Signatory(name, Ed25519PrivateKey.generate()) for name in who}
    for name in who:
        pem = keys[name].public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (fleet.root / f"{name}.pub").write_bytes(pem)
        fleet.operators.register(name, fleet.root / f"{name}.pub")
    settings = Settings(waves=("2", "100%"), soak_s=0.0, approvals=1, shadow=ShadowSpec())
    target = Target(tuple(f"v{number}" for number in range(4)))
    create = partial(fleet.rollouts.create, TASK, 2, target, settings, author=keys["ann"])
    act(lambda: None if fleet.rollouts.list() else create())

    def approve(wave: int) -> object:
        return fleet.rollouts.approve(1, keys["bob"], wave=wave)

    for wave in (1, 2):
        act(fleet.step)
        act(partial(approve, wave))
        for _ in range(3):
            act(fleet.step)
            for number in range(4):
                compare_or_obey(fleet, f"v{number}")


def compare_or_obey(fleet: Fleet, name: str) -> None:
    with fleet.database.reading() as session:
        row = session.get(DesiredState, name)
    if row is not None and row.shadows:
        report = ShadowReport(
            ref=fleet.ref(2),
            state="running",
            frames=50_000,
            disagreed=20,
            confidence_frames=50_000,
            latency_counts=(50_000,),
            incumbent_latency_counts=(50_000,),
        )
        fleet.says(name, "idle", 1, shadow=report)
    else:
        obey(fleet, name, "idle")


def obey(fleet: Fleet, name: str, how: UpdateState) -> None:
    wanted = fleet.wanted(name)
    if wanted is None:
        return
    if wanted[1] == 2 and how == "rolled-back":
        fleet.says(name, how, 1, target=2)
    else:
        fleet.says(name, "idle", wanted[1])


def outcome(fleet: Fleet) -> tuple[Any, ...]:
    view = fleet.rollouts.show(1)
    with fleet.database.reading() as session:
        claims = len(session.scalars(select(RolloutClaim)).all())
        previous = session.scalars(select(RolloutMember.previous).order_by(RolloutMember.vehicle)).all()
    members = [(member.vehicle, member.wave, member.state, member.taken_back) for member in view.members]
    names = sorted(member.vehicle for member in view.members)
    return view.state, view.wave, members, claims, previous, [fleet.wanted(name) for name in names]


@pytest.mark.parametrize("story", [story_of_cohorts, story_of_an_abort, story_of_a_shadow])
@pytest.mark.parametrize("after_commit", [False, True])
def test_a_cloud_that_dies_in_any_transaction_goes_on_where_it_was(
    tmp_path: Path, workspace: Path, story: Callable[..., None], after_commit: bool
) -> None:
    def play(at: int) -> tuple[tuple[Any, ...], int, bool]:
        root = tmp_path / f"{at}"
        shutil.copytree(workspace, root)
        fleet = Fleet(root)
        for number in range(4):
            fleet.add(f"v{number}")
            fleet.add(f"pi-{number}", hardware="pi-4")
        died, transactions = False, 0

        def act(what: Callable[[], object]) -> None:
            nonlocal died, transactions
            with killing(fleet, 0 if died else at - transactions, after_commit) as count:
                try:
                    what()
                except KilledError:
                    died = True
                else:
                    transactions += count[0]
                    return
            fleet.restarted()
            what()

        story(fleet, act)
        made = outcome(fleet)
        fleet.database.close()
        shutil.rmtree(root)
        return made, transactions, died

    expected, transactions, _ = play(0)
    assert story is not story_of_a_shadow or expected[0] == "succeeded"
    assert transactions >= 5
    for at in range(1, transactions + 1):
        made, _, died = play(at)
        assert died
        assert made == expected, f"killed in transaction {at}"
