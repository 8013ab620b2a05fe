"""The commands for models, releases, rollouts, data sets, jobs and keys: what they print for machines, how they end."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from roadloop_cloud.cli import main
from roadloop_cloud.registry.director_keys import DIRECTOR_ROLES
from roadloop_models.bundle.archive import pack
from tests.fakes.bundles import tiny_bundle
from tests.fakes.live_cloud import LiveCloud

TASK = "traffic-sign"


class Shell:
    """Runs `roadloop` in a workspace with two vehicles."""

    def __init__(self, directory: Path) -> None:
        self.cloud = LiveCloud(directory, "van-1", "van-2")
        self.root = str(self.cloud.app.workspace.root)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, [*arguments, "--workspace", self.root])

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.exit_code == 2, done.output
        assert "Traceback" not in done.output
        return done.stderr


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_model_from_archive_to_release_to_rollout(shell: Shell, tmp_path: Path) -> None:
    pack(tiny_bundle(tmp_path / "next", "tiny-2", seed=2), tmp_path / "next.bundle")
    assert shell.json("models", "import", str(tmp_path / "next.bundle"))["state"] == "draft"
    assert shell.json("models", "publish", TASK, "tiny-2")["release"] == 2
    assert shell.json("models", "publish", TASK, "tiny-2", "--again")["release"] == 3
    listed = shell.json("models", "list")
    assert [(row["version"], row["state"], row["releases"]) for row in listed] == [
        ("tiny-1", "published", [1]),
        ("tiny-2", "published", [2, 3]),
    ]
    assert shell.json("models", "show", TASK, "tiny-2")["variants"].keys() == {"onnx-int8"}
    made = shell.json("rollout", "create", "--task", TASK, "--release", "3", "--all", "--waves", "1,100%")
    assert (made["id"], made["state"], [wave["size"] for wave in made["waves"]]) == (1, "running", [1, 1])
    assert "rollout 1" in shell.refused("rollout", "create", "--task", TASK, "--release", "2", "--vehicle", "van-1")
    assert shell.json("rollout", "pause", "1")["state"] == "paused"
    watched = shell.run("rollout", "watch", "1", "--json")
    assert (watched.exit_code, json.loads(watched.stdout)["state"]) == (1, "paused")
    assert shell.json("rollout", "resume", "1")["state"] == "running"
    assert shell.json("rollout", "abort", "1")["state"] == "aborted"
    assert [row["id"] for row in shell.json("rollout", "list")] == [1]
    assert shell.json("rollout", "show", "1")["version"] == "tiny-2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models", "show", TASK, "none"), "there are tiny-1"),
        (("models", "publish", TASK, "none"), "there are tiny-1"),
        (("rollout", "show", "9"), "no rollout 9"),
        (("rollout", "create", "--task", TASK, "--release", "9", "--all"), "no release 9"),
        (("rollout", "create", "--task", TASK, "--release", "1"), "--all"),
        (("rollout", "create", "--task", TASK, "--release", "1", "--all", "--waves", "1,2x"), "2x"),
        (("dataset", "build", "--task", "nothing"), "traffic-speed"),
        (("dataset", "build", "--task", "traffic-sign"), "--labels"),
        (("dataset", "show", "abcdef"), "no snapshot"),
        (("jobs", "cancel", "9"), "no job 9"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(shell: Shell, arguments: tuple[str, ...], message: str) -> None:
    said = shell.refused(*arguments)
    assert message in said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1


def test_retrain_in_the_background_is_a_job(shell: Shell, tmp_path: Path) -> None:
    job = shell.json("retrain", "--task", TASK, "--data", str(tmp_path), "--background")["job"]
    assert shell.json("jobs", "show", str(job))["state"] == "queued"
    assert shell.json("jobs", "cancel", str(job))["state"] == "cancelled"
    assert [row["kind"] for row in shell.json("jobs", "list")] == ["retrain"]


def test_retrain_without_labels_fails_and_says_so(shell: Shell, tmp_path: Path) -> None:
    assert "--labels" in shell.refused("retrain", "--task", TASK, "--data", str(tmp_path))
    assert shell.json("jobs", "list")[0]["state"] == "failed"


IMAGE_ROLES = ("root", "targets", TASK, "snapshot", "timestamp")


def key_of(shell: Shell, role: str) -> str:
    return next(str(row["keys"]) for row in shell.json("keys", "show") if row["role"] == role)


def test_keys(shell: Shell) -> None:
    shown = shell.json("keys", "show")
    assert [row["role"] for row in shown] == [*IMAGE_ROLES, *DIRECTOR_ROLES]
    assert all(row["files"] == {row["keys"][0]: f"{row['role']}.pem"} for row in shown)
    assert not any(row["expired"] for row in shown)
    assert shell.json("keys", "renew") == {"renewed": False}
    versions = {row["role"]: row["version"] for row in shown if row["version"]}
    assert set(versions) == {*IMAGE_ROLES, "director-root"}
    assert shell.json("keys", "renew", "--offline")["published"]
    assert shell.json("keys", "renew", "--director")["published"]
    renewed = {row["role"]: row["version"] for row in shell.json("keys", "show") if row["version"]}
    assert renewed == {role: version + 1 for role, version in versions.items()}
    for role in ("timestamp", "director-targets", "director-root"):
        before = key_of(shell, role)
        assert shell.json("keys", "rotate", role)["published"]
        assert key_of(shell, role) != before


def test_tables_for_people(shell: Shell) -> None:
    for arguments in (("models", "list"), ("models", "show", TASK, "tiny-1"), ("keys", "show"), ("rollout", "list")):
        done = shell.run(*arguments)
        assert done.exit_code == 0, done.output
        assert not done.stdout.startswith("{")
    assert "tiny-1" in shell.run("models", "list").stdout


def test_evaluate_names_the_variants_there_are(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "tiny")
    arguments = ["models", "evaluate", str(tmp_path / "tiny"), "--data", str(tmp_path), "--runtime", "tflite"]
    done = CliRunner().invoke(main, arguments)
    assert (done.exit_code, "onnx-int8" in done.stderr) == (2, True)
