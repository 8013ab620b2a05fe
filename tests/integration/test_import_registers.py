"""An imported detector in a workspace: registered, shown, published, like any model of the project's own."""

import json
from pathlib import Path

from click.testing import CliRunner

from roadloop_cloud.cli import main
from tests.fakes.detector_files import fastestdet_file, write_labels
from tests.fakes.live_cloud import free_port


def run(*args: str) -> object:
    done = CliRunner().invoke(main, [*args, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_an_imported_detector_is_registered_and_published(tmp_path: Path) -> None:
    fleet = str(tmp_path / "fleet")
    run("init", fleet, "--port", str(free_port()))
    file, labels = fastestdet_file(tmp_path / "theirs.onnx"), write_labels(tmp_path / "labels.txt")
    asked = ["--onnx", str(file), "--labels", str(labels), "--task", "object-detection", "--version", "theirs-1"]
    answer = run("models", "import", *asked, "--workspace", fleet)
    assert isinstance(answer, dict) and answer["registered"] and answer["bundle"] is None
    shown = run("models", "show", "object-detection", "theirs-1", "--workspace", fleet)
    assert isinstance(shown, dict)
    assert shown["manifest_sha256"] == answer["manifest_sha256"] and shown["state"] == "draft"
    assert shown["lineage"]["command"].startswith("roadloop models import --onnx theirs.onnx --task object-detection")
    released = run("models", "publish", "object-detection", "theirs-1", "--workspace", fleet)
    assert isinstance(released, dict) and released["release"] == 1
    listed = run("models", "list", "--task", "object-detection", "--workspace", fleet)
    assert isinstance(listed, list) and [row["releases"] for row in listed] == [[1]]

    again = CliRunner().invoke(main, ["models", "import", *asked, "--min-score", "0.9", "--workspace", fleet])
    assert again.exit_code == 2 and "exists with other content; choose another version" in again.stderr
