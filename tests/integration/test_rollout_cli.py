"""The commands that plan, approve, take back and explain, in a workspace as `roadloop init` makes it."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from roadloop_cloud.cli import main
from roadloop_cloud.registry.releases import release_ref
from roadloop_cloud.rollout.service import Target
from roadloop_cloud.store.database import now_utc
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import Reported, ReportedSlot
from tests.fakes.bundles import tiny_bundle
from tests.fakes.live_cloud import LiveCloud

TASK = "traffic-sign"


class Shell:
    """Runs `roadloop` in a workspace with three vehicles and two releases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cloud = LiveCloud(folder, "van-1", "van-2", "van-3")
        self.app = self.cloud.app
        self.app.models.register(tiny_bundle(folder / "next", "tiny-2", seed=2).directory)
        self.app.releases.publish(TASK, "tiny-2")
        for vehicle in ("van-1", "van-2", "van-3"):
            self.reports(vehicle, 1)

    def reports(self, vehicle: str, release: int) -> None:
        running = release_ref(self.app.releases.get(TASK, release))
        slot = ReportedSlot(task=TASK, running=running, runtime="onnx", precision="int8", state="idle")
        report = Reported(boot=1, agent_version="0.1.0", hardware="test", desired_version=1, slots={"sign": slot})
        with self.app.database.transaction() as session:
            row = session.get_one(Vehicle, vehicle)
            row.reported, row.reported_at, row.online = msgspec.to_builtins(report), now_utc(), True

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--workspace", str(self.app.workspace.root)])

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def text(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.exit_code == 0, done.output
        return done.stdout

    def refused(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output
        return done.stderr

    def operator(self, name: str) -> tuple[str, ...]:
        key = self.folder / f"{name}.pem"
        self.json("operators", "add", name, "--key", str(key))
        return ("--as", name, "--key", str(key))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


RELEASE = ("--task", TASK, "--release", "2", "--all", "--waves", "1,100%")


def test_plan_shows_and_does_nothing(shell: Shell) -> None:
    made = shell.json("rollout", "plan", *RELEASE)
    assert [wave["vehicles"] for wave in made["waves"]] == [1, 2]
    assert 0 < made["bytes"] <= made["whole_bytes"]
    assert made["first_gate"] == pytest.approx(1 / 3)
    assert shell.json("rollout", "list") == []
    shown = shell.text("rollout", "plan", *RELEASE)
    for word in ("3 of 3 vehicles", "blast radius", "33.3%", "at least", "data"):
        assert word in shown
    shell.reports("van-2", 2)
    left = shell.json("rollout", "plan", *RELEASE)["left_out"]
    assert left == {}, "it reports it, but shall run another one"
    shell.app.rollouts.create(TASK, 2, Target(("van-3",)))
    assert shell.json("rollout", "plan", *RELEASE)["collisions"] == {"1": ["van-3"]}
    assert "it would be refused" in shell.text("rollout", "plan", *RELEASE)


def test_four_eyes(shell: Shell) -> None:
    ann, bob = shell.operator("ann"), shell.operator("bob")
    assert "--as" in shell.refused("rollout", "create", *RELEASE, "--approval", "1")
    made = shell.json("rollout", "create", *RELEASE, "--approval", "1", "--soak", "0", *ann)
    assert (made["created_by"], made["gates"][0]["state"]) == ("ann", "waits")
    assert "somebody else" in shell.refused("rollout", "approve", "1", *ann)
    assert "--as" in shell.refused("rollout", "approve", "1")
    assert "belong together" in shell.refused("rollout", "approve", "1", "--as", "bob")
    assert shell.json("rollout", "reject", "1", *bob)["gates"][0]["detail"].startswith("rejected by bob")
    approved = shell.json("rollout", "approve", "1", "--wave", "2", *bob)
    assert approved["gates"][0] == {"name": "approval", "state": "passed", "detail": "by bob"}
    shell.app.rollouts.tick()
    assert shell.json("rollout", "show", "1")["waves"][0]["offered"] == 1
    assert [row["operator"] for row in shell.json("operators", "list")] == ["ann", "bob"]
    assert shell.json("operators", "remove", "bob") == {"operator": "bob"}


def test_a_rollout_is_shown_taken_back_and_explained(shell: Shell) -> None:
    ann, bob = shell.operator("ann"), shell.operator("bob")
    shell.json("rollout", "create", *RELEASE, "--soak", "0", "--approval", "1", *ann)
    shell.json("rollout", "approve", "1", "--wave", "2", *bob)
    for _ in range(3):
        shell.app.rollouts.tick()
        for vehicle in ("van-1", "van-2", "van-3"):
            shell.reports(vehicle, 2)
    assert shell.json("rollout", "watch", "1")["state"] == "succeeded"
    assert "3 of 3 have finished" in shell.text("rollout", "show", "1").replace("\n", " ").replace("  ", " ")
    shell.app.models.record_evaluation(
        TASK, "tiny-2", {"onnx-int8": {"metrics": {"accuracy": 0.98}, "rows": 9, "file_sha256": "0" * 64}}
    )
    export = shell.folder / "van-1.json"
    found = shell.json("vehicles", "explain", "van-1", "--task", TASK, "--export", str(export), *bob)
    slot = found["slots"]["sign"]
    manifest = shell.app.releases.bundle(shell.app.releases.get(TASK, 2)).manifest
    assert slot["file"]["sha256"] == manifest.file_entry(manifest.variants[0].file).sha256
    assert slot["release"]["release"] == 2
    (rollout,) = slot["rollouts"]
    assert [(one["operator"], one["kind"], one["verified"]) for one in rollout["statements"]] == [
        ("ann", "rollout-creation", True),
        ("bob", "rollout-approval", True),
    ]
    assert "the evaluation is of another file than the one that runs" in slot["gaps"]
    shown = shell.text("vehicles", "explain", "van-1", "--task", TASK)
    for word in ("rollout", "approve wave 2 by bob", "signature verified", "accuracy 0.98"):
        assert word in " ".join(shown.split())
    assert shell.json("evidence", "verify", str(export))["operator"] == "bob"
    public = shell.app.workspace.operators / "bob.pub"
    elsewhere = ["evidence", "verify", str(export), "--public", str(public), "--workspace", str(shell.folder)]
    assert CliRunner().invoke(main, elsewhere).exit_code == 0, "the key is enough"
    export.write_text(export.read_text().replace("0.98", "0.99"))
    assert "does not match" in shell.refused("evidence", "verify", str(export))
    assert shell.json("rollout", "rollback", "1")["state"] == "failed"
    assert "no slot of task lidar" in shell.refused("vehicles", "explain", "van-1", "--task", "lidar")


def test_a_provisioned_model_is_explained_as_such(shell: Shell) -> None:
    slot = shell.json("vehicles", "explain", "van-1", "--task", TASK)["slots"]["sign"]
    assert slot["rollouts"] == []
    assert any("provisioned" in gap for gap in slot["gaps"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--release", "2", "--all"), "TASK=NUMBER"),
        (("--task", TASK, "--release", "x", "--all"), "TASK=NUMBER"),
        (("--release", f"{TASK}=2", "--release", f"{TASK}=1", "--all"), "one release of a task"),
        (("--task", TASK, "--release", "2", "--all", "--window", "sometime"), "window 'sometime'"),
        (("--task", TASK, "--release", "2", "--all", "--ramp", "1"), "ramp '1'"),
        (("--task", TASK, "--release", "2", "--all", "--ramp", "1x2", "--waves", "100%"), "exclude each other"),
        (("--task", TASK, "--release", "2", "--hardware", "abacus"), "no vehicle with a slot"),
    ],
)
def test_bad_options(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    assert message in shell.refused("rollout", "create", *arguments)


def test_all_options_reach_the_vehicle(shell: Shell) -> None:
    options = ("--window", "Mo-Fr 01:00-05:00", "--parked", "--consent", "--transport", "mqtt", "--unmetered")
    more = ("--ramp", "1x2", "--percent", "100", "--max-disagreement", "0.1", "--shadow", "--on-failure", "pause")
    shell.json("rollout", "create", "--release", f"{TASK}=2", "--all", *options, *more, "--fixed")
    spec = shell.app.rollouts.show(1).spec
    assert (spec.policy.transport, spec.policy.metered, spec.policy.max_disagreement) == ("mqtt", False, 0.1)
    when = spec.policy.switch_when
    assert (when.parked, when.consent, when.windows[0].from_minute) == (True, True, 60)
    assert spec.shadow is not None and spec.shadow.bound.max_disagreement == 0.1
    assert (spec.on_failure, spec.late_joiners, spec.ramp is not None) == ("pause", False, True)
