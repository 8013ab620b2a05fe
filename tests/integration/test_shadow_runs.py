"""Candidates in the shadow from the cloud's side: desired states, what vehicles said, the verdict, the commands."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from roadloop_cloud.app import Application
from roadloop_cloud.cli import main
from roadloop_cloud.fleet import desired
from roadloop_cloud.fleet.choosing import Chosen
from roadloop_cloud.rollout.evidence import Bound
from roadloop_cloud.rollout.shadow_runs import ShadowRuns
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.fleet_tables import Release, RolloutClaim, RolloutRow
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef, Reported, ReportedSlot, ShadowPolicy, ShadowReport
from roadloop_models.errors import BadInputError, ConflictError, NotFoundError
from tests.fakes.cloud import fresh_database
from tests.fakes.live_cloud import LiveCloud
from tests.fakes.registry import Registry

TASK = "traffic-sign"
ALL = Chosen(everyone=True)
POLICY = ShadowPolicy(max_cpu_share=0.1)


def ref(release: int) -> ReleaseRef:
    return ReleaseRef(task=TASK, release=release, version=f"v{release}", manifest_sha256=f"{release}" * 64)


class Fleet:
    """Two vehicles that run release 1, and a third that has never reported."""

    def __init__(self, root: Path) -> None:
        fresh_database(root).close()
        registry = Registry(root)
        self.database = registry.database
        self.runs = ShadowRuns(self.database, registry.releases)
        with self.database.transaction() as session:
            for number in (1, 2, 3):
                made = ref(number)
                session.add(
                    Release(
                        task=TASK,
                        release=number,
                        version=made.version,
                        manifest_sha256=made.manifest_sha256,
                        published=now_utc(),
                    )
                )
            for name in ("van-1", "van-2", "van-3"):
                session.add(Vehicle(id=name, hardware="x", profile="p", tags=[name], created=now_utc(), online=True))
        for name in ("van-1", "van-2"):
            self.says(name, None)

    def says(self, name: str, shadow: ShadowReport | None) -> None:
        slot = ReportedSlot(task=TASK, running=ref(1), runtime="onnx", precision="int8", state="idle", shadow=shadow)
        report = Reported(boot=1, agent_version="0.1.0", hardware="x", desired_version=0, slots={"sign": slot})
        with self.database.transaction() as session:
            session.get_one(Vehicle, name).reported = msgspec.to_builtins(report)

    def shadows(self, name: str) -> dict[str, ReleaseRef]:
        with self.database.reading() as session:
            return desired.shadows_of(session, session.get_one(Vehicle, name))

    def desired_version(self, name: str) -> int:
        with self.database.reading() as session:
            return next((state.version for vehicle, state in desired.LEVELS.unpublished(session) if vehicle == name), 0)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def sums(frames: int, disagreed: int = 0, release: int = 2, **more: Any) -> ShadowReport:
    return ShadowReport(ref=ref(release), state="running", frames=frames, disagreed=disagreed, **more)


def test_a_release_goes_into_the_shadow_and_out_of_it(fleet: Fleet) -> None:
    assert fleet.runs.start(TASK, 2, ALL, POLICY) == ["van-1", "van-2"]
    assert fleet.shadows("van-1") == {"sign": ref(2)} and fleet.shadows("van-3") == {}
    version = fleet.desired_version("van-1")
    fleet.runs.start(TASK, 2, ALL, POLICY)
    assert fleet.desired_version("van-1") == version, "what is said already is not said anew"
    assert fleet.runs.stop(TASK, Chosen(tags=("van-1",))) == ["van-1"]
    assert fleet.shadows("van-1") == {} and fleet.shadows("van-2") == {"sign": ref(2)}
    assert fleet.runs.stop(TASK, Chosen(tags=("van-1",))) == []


def test_what_vehicles_say_adds_up_and_the_newest_word_replaces_the_one_before(fleet: Fleet) -> None:
    fleet.runs.start(TASK, 2, ALL, POLICY)
    fleet.says("van-1", sums(300))
    fleet.says("van-1", sums(4000, 10))
    fleet.says("van-2", sums(8000, 200))
    (run,) = fleet.runs.show(TASK, Bound())
    assert (run.evidence.sums.frames, run.evidence.sums.disagreed, run.evidence.vehicles) == (12_000, 210, 2)
    assert run.evidence.verdict == "pass"
    (strict,) = fleet.runs.show(None, Bound(max_disagreement=0.005))
    assert strict.evidence.verdict == "fail"


def test_word_about_another_release_counts_for_nothing(fleet: Fleet) -> None:
    fleet.runs.start(TASK, 2, ALL, POLICY)
    fleet.says("van-1", sums(5000, 5000, release=3))
    (run,) = fleet.runs.show(TASK, Bound())
    assert run.evidence.sums.frames == 0 and [slot.report for slot in run.slots] == [None, None]


def test_a_vehicle_that_refused_it_says_why(fleet: Fleet) -> None:
    fleet.runs.start(TASK, 2, ALL, POLICY)
    error = ErrorInfo(code="too-slow", detail="did not answer")
    fleet.says("van-1", msgspec.structs.replace(sums(0), state="refused", error=error))
    (run,) = fleet.runs.show(TASK, Bound())
    assert run.evidence.verdict == "fail" and "too-slow" in run.evidence.reason


def test_what_cannot_be_is_refused_with_the_reason(fleet: Fleet) -> None:
    with pytest.raises(NotFoundError, match="no release 9"):
        fleet.runs.start(TASK, 9, ALL, POLICY)
    with pytest.raises(NotFoundError, match="no vehicle other"):
        fleet.runs.start(TASK, 2, Chosen(vehicles=("other",)), POLICY)
    with pytest.raises(BadInputError, match="never reported"):
        fleet.runs.start(TASK, 2, Chosen(vehicles=("van-3",)), POLICY)
    with pytest.raises(BadInputError, match="--all"):
        fleet.runs.start(TASK, 2, Chosen(), POLICY)
    with pytest.raises(BadInputError, match="run already"):
        fleet.runs.start(TASK, 1, ALL, POLICY)


def test_a_rollout_decides_alone_about_its_vehicles(fleet: Fleet) -> None:
    fleet.runs.start(TASK, 2, ALL, POLICY)
    with fleet.database.transaction() as session:
        now = now_utc()
        row = RolloutRow(task=TASK, spec={}, state="running", created=now, updated=now)
        session.add(row)
        session.flush()
        session.add(RolloutClaim(task=TASK, vehicle="van-2", rollout_id=row.id))
    with pytest.raises(ConflictError, match="van-2 is in rollout"):
        fleet.runs.start(TASK, 3, ALL, POLICY)
    with pytest.raises(ConflictError, match="van-2 is in rollout"):
        fleet.runs.stop(TASK, ALL)
    assert fleet.shadows("van-1") == {"sign": ref(2)}, "all or nothing"


class Shell:
    """Runs `roadloop` in a workspace with one vehicle, and a release 2."""

    def __init__(self, directory: Path) -> None:
        cloud = LiveCloud(directory, "van-1")
        self.root = str(cloud.app.workspace.root)
        self.run("models", "publish", TASK, "tiny-1", "--again")
        self.app: Application = cloud.app

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--workspace", self.root])

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


def test_the_commands(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    assert shell.json("shadow", "show") == []
    started = shell.json("shadow", "start", "--task", TASK, "--release", "2", "--all", "--cpu-share", "0.1")
    assert started == {"task": TASK, "release": 2, "vehicles": ["van-1"]}
    (run,) = shell.json("shadow", "show", "--task", TASK)
    assert (run["release"], run["verdict"], run["frames"]) == (2, "undecided", 0)
    assert run["slots"] == [
        {
            "vehicle": "van-1",
            "slot": "sign",
            "state": None,
            "frames": 0,
            "disagreed": 0,
            "errors": 0,
            "skipped": 0,
            "error": None,
        }
    ]
    shown = shell.run("shadow", "show")
    assert shown.exit_code == 0 and "not heard of" in shown.output and "disagreement" in shown.output
    assert shell.json("shadow", "stop", "--task", TASK, "--all")["vehicles"] == ["van-1"]
    refused = shell.run("shadow", "start", "--task", TASK, "--release", "7", "--all")
    assert refused.exit_code == 2 and "no release 7" in refused.stderr
