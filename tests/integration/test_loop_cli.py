"""`roadloop loop` as a person and as a machine see it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from roadloop_cloud.app import Application
from roadloop_cloud.cli import main
from roadloop_cloud.config import Config
from roadloop_cloud.founding import found_workspace
from roadloop_cloud.retrain.pipeline import KIND
from roadloop_cloud.retrain.steps import EXPLAIN, QAT, TEACH
from roadloop_cloud.workspace import Workspace
from tests.fakes.bundles import tiny_bundle

TASK = "traffic-sign"


@pytest.fixture
def app(tmp_path: Path) -> Application:
    bundle = tiny_bundle(tmp_path / "bundle")
    found_workspace(tmp_path / "fleet", Config(), {TASK: bundle.directory}, lambda _text, _done: None)
    return Application(Workspace.open(tmp_path / "fleet"))


def typed(app: Application, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["loop", *arguments, "--workspace", str(app.workspace.root)])
    assert done.exit_code == code, done.output
    return done.output


def asked(app: Application, *arguments: str) -> Any:
    return json.loads(typed(app, *arguments, "--json"))


def test_a_loop_from_its_policy_to_a_job(app: Application, tmp_path: Path) -> None:
    options = ("--data", str(tmp_path), "--new-labels", "50", "--every", "2d", "--cool-down", "90min", "--per", "1d")
    limits = ("--max-generations", "2", "--max-cpu", "1h", "--max-bytes", "1000000", "--min-free", "0")
    policy = asked(app, "enable", TASK, *options, *limits, "--rollout", "1,100%")
    assert policy["triggers"] == {"drift": True, "new_labels": 50, "every_s": 172_800.0}
    assert policy["cool_down_s"] == 5400.0
    assert policy["budget"] == {
        "period_s": 86_400.0, "generations": 2, "cpu_s": 3600.0, "delivered_bytes": 1_000_000
    }  # fmt: skip
    assert policy["retrain"]["rollout"]["waves"] == ["1", "100%"]
    assert policy["retrain"]["publish"] is True
    decided = asked(app, "run", TASK)
    assert (decided["action"], decided["why"]) == ("start", "person")
    (job,) = app.jobs.list()
    assert (job.kind, job.spec["task"], job.state) == (KIND, TASK, "queued")
    (status,) = asked(app, "status")
    assert status["job"] == job.id
    assert status["decision"]["why"] == "person"
    assert len(status["generations"]) == 1
    assert asked(app, "run", TASK)["why"] == "running"
    assert [one["why"] for one in asked(app, "history", TASK)] == ["running", "person"]
    assert "only when a person asks" not in typed(app, "status")
    typed(app, "disable", TASK)
    assert "only when a person asks" in typed(app, "status")


def test_status_shows_what_the_steps_of_the_last_generation_did(app: Application, tmp_path: Path) -> None:
    typed(app, "enable", TASK, "--data", str(tmp_path), "--min-free", "0")
    typed(app, "run", TASK)
    assert asked(app, "status")[0]["did"] == dict.fromkeys(("taught", "quantization_aware", "explained", "card"))
    job = app.jobs.claim("worker", [KIND])
    assert job is not None
    results: dict[str, Any] = {
        TEACH: {"by": "teacher big", "labelled": 120, "damaged": 0, "disagreed": 14},
        QAT: {"allowed": 0.001, "lost": 0.0123, "trained_on": True},
        EXPLAIN: {"variant": "onnx-int8", "rows": 6, "why": None},
    }
    for name, result in results.items():
        app.jobs.record_step(job, name, {"result": result, "seconds": 1.0, "cpu_s": 1.0})
    (status,) = asked(app, "status")
    assert [status["did"][key] for key in ("taught", "quantization_aware", "explained")] == list(results.values())
    shown = " ".join(typed(app, "status").split())
    assert "120 items by teacher big, 14 against the vehicle" in shown
    assert "lost 0.0123, allowed 0.001: trained on quantization-aware" in shown
    assert "6 rows" in shown
    app.jobs.record_step(job, EXPLAIN, {"result": {"rows": 0, "why": "no weights"}, "seconds": 1.0, "cpu_s": 1.0})
    assert "not: no weights" in typed(app, "status")


def test_what_cannot_be_is_refused_with_the_way_out(app: Application, tmp_path: Path) -> None:
    assert "loop enable" in typed(app, "run", TASK, code=2)
    assert "loop enable" in typed(app, "disable", TASK, code=2)
    assert "90s, 30min, 6h or 7d" in typed(app, "enable", TASK, "--data", str(tmp_path), "--every", "soon", code=2)
    assert "no task" in typed(app, "enable", "juggling", "--data", str(tmp_path), code=2)
    taught = ("enable", TASK, "--data", str(tmp_path), "--teacher")
    assert "teacher 'big': no version and no release of traffic-sign" in typed(app, *taught, "big", code=2)
    assert asked(app, "status") == []
    assert asked(app, *taught, "1")["retrain"]["teacher"] == "1"
