"""The `roadloop` command as people and machines call it, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from roadloop_cloud.app.processes import PROCESSES
from roadloop_cloud.workspace import Workspace
from tests.fakes.cloud import batch_message, lost_message
from tests.fakes.live_cloud import LiveCloud, free_port, wait_until

ROADLOOP = [sys.executable, "-P", "-c", "from roadloop_cloud.cli import main; main()"]


def run(*arguments: str | Path, expect: int = 0) -> Any:
    """Run one command with --json; what it printed."""
    done = subprocess.run([*ROADLOOP, *map(str, arguments), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children_of(cloud: LiveCloud) -> dict[str, int]:
    """Name -> process id of what `up` has started."""
    return {path.stem: int(path.read_text()) for path in cloud.app.workspace.run.glob("*.pid")}


@pytest.fixture
def cloud(tmp_path: Path) -> LiveCloud:
    return LiveCloud(tmp_path, "van-1")


@contextmanager
def service(cloud: LiveCloud, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """`roadloop up --broker`, with all its children started; it is told to stop at the end, where it still runs."""
    arguments = [*ROADLOOP, "up", "--broker", *options, "--workspace", str(cloud.app.workspace.root)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    try:
        wait_until("all children have started", lambda: len(children_of(cloud)) > len(PROCESSES))
        wait_until("the broker listens", cloud.broker_listens)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
        assert process.stderr is not None
        process.stderr.close()


def test_the_service_runs_restarts_what_dies_and_stops_cleanly(cloud: LiveCloud) -> None:
    with service(cloud, "--ingest", "2") as up:
        with cloud.vehicle("van-1") as van:
            van.send([batch_message("van-1", 1, 50)], lambda: van.covers(50))
            before = children_of(cloud)
            for name in ("ingest-1", "ingest-2"):
                os.kill(before[name], signal.SIGKILL)
            van.send([batch_message("van-1", 51, 90)], lambda: van.covers(90))
        after = children_of(cloud)
        assert set(after) == {"broker", "ingest-1", "ingest-2", *PROCESSES} - {"ingest"}
        assert after["broker"] == before["broker"]
        again = subprocess.run(
            [*ROADLOOP, "up", "--workspace", str(cloud.app.workspace.root)], capture_output=True, text=True, check=False
        )
        assert (again.returncode, "runs on it already" in again.stderr) == (2, True)
        totals = run("telemetry", "totals", "--workspace", cloud.app.workspace.root)
        assert (totals["stored"], totals["duplicates"], totals["lost"]) == (90, 0, 0)
        up.send_signal(signal.SIGTERM)
        assert up.stderr is not None
        noted = up.stderr.read()
        up.wait(timeout=30)
    assert up.returncode == 0
    assert "stopped" in noted
    assert not [name for name, pid in children_of(cloud).items() if alive(pid)]
    logs = "".join(path.read_text() for path in cloud.app.workspace.run.glob("*.log"))
    assert "Traceback" not in logs


def test_killed_the_service_leaves_no_orphans(cloud: LiveCloud) -> None:
    with service(cloud) as up:
        pids = children_of(cloud)
        assert all(alive(pid) for pid in pids.values())
        up.kill()
        up.wait()
    wait_until("all children have ended", lambda: not any(alive(pid) for pid in pids.values()))


def test_the_broker_in_the_foreground_is_the_broker(cloud: LiveCloud) -> None:
    process = subprocess.Popen(
        [*ROADLOOP, "broker", "--workspace", str(cloud.app.workspace.root)], stderr=subprocess.PIPE, text=True
    )
    wait_until("the broker listens", cloud.broker_listens)
    assert Path(f"/proc/{process.pid}/comm").read_text().strip() == "mosquitto"
    with cloud.vehicle("van-1"):  # it listens before it minds signals; once it serves, it does both
        pass
    process.terminate()
    assert process.wait(timeout=10) == 0


def test_what_the_fleet_sent_can_be_asked_for(cloud: LiveCloud) -> None:
    workspace = ("--workspace", cloud.app.workspace.root)
    with cloud.broker(), cloud.ingest(), cloud.vehicle("van-1") as van:
        lost = lost_message("van-1", 21, 25, "spool-full:low-value")
        van.send([batch_message("van-1", 1, 20), lost], lambda: van.covers(25))
    assert run("telemetry", "query", "SELECT max(decisions) AS top FROM health", *workspace) == [{"top": 20.0}]
    assert run("telemetry", "move", *workspace) == {"batches": 1, "samples": 20}
    rows = run("telemetry", "query", "--stream", "health", "--vehicle", "van-1", "--limit", "3", *workspace)
    assert [row["seq"] for row in rows] == [1, 2, 3]
    gaps = run("telemetry", "gaps", *workspace)
    assert gaps["streams"][0]["missing"] == []
    assert gaps["totals"]["stored"] == 20
    assert gaps["streams"][0]["lost"] == gaps["totals"]["lost_because"] == {"spool-full:low-value": 5}
    for command in ("gaps", "totals"):
        line = [*ROADLOOP, "telemetry", command, *map(str, workspace)]
        shown = subprocess.run(line, capture_output=True, text=True, check=True)
        assert "5 spool-full:low-value" in " ".join(shown.stdout.split())
    epoch = run("telemetry", "new-epoch", *workspace)["epoch"]
    assert run("telemetry", "new-epoch", *workspace)["epoch"] > epoch


def test_vehicles_are_added_listed_tagged(cloud: LiveCloud, tmp_path: Path) -> None:
    workspace = ("--workspace", cloud.app.workspace.root)
    profile = tmp_path / "profile.toml"
    added = run(
        "vehicles", "add", "van-2", "--profile", profile, "--output", tmp_path / "van-2", "--tag", "new", *workspace
    )
    assert Path(added["config"]).is_file()
    assert [row["id"] for row in run("vehicles", "list", "--tag", "new", *workspace)] == ["van-2"]
    assert run("vehicles", "tag", "van-2", "--remove", "new", "--add", "old", *workspace)["tags"] == ["old"]
    assert run("vehicles", "show", "van-2", *workspace)["online"] is False
    shown = subprocess.run(
        [*ROADLOOP, "vehicles", "list", *map(str, workspace)], capture_output=True, text=True, check=True
    )
    assert "van-2" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("vehicles", "show", "van-9"), "not-found"),
        (("vehicles", "add", "Van 9", "--profile", "profile.toml", "--output", "x"), "message-invalid"),
        (("vehicles", "add", "van-9", "--profile", "no-such", "--output", "x"), "config-invalid"),
        (("telemetry", "query", "SELEC"), "bad-input"),
        (("telemetry", "query"), "bad-input"),
        (("telemetry", "query", "--stream", "none"), "bad-input"),
    ],
)
def test_bad_input_is_exit_2_with_its_code(
    cloud: LiveCloud, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: str
) -> None:
    monkeypatch.chdir(cloud.directory)
    answer = run(*arguments, "--workspace", cloud.app.workspace.root, expect=2)
    assert answer["error"]["code"] == code


def test_a_workspace_with_an_unknown_key_is_refused(cloud: LiveCloud) -> None:
    path = cloud.app.workspace.root / "roadloop.toml"
    path.write_text(path.read_text().replace("[broker]", "[broker]\nhosst = 'x'"))
    answer = run("vehicles", "list", "--workspace", cloud.app.workspace.root, expect=2)
    assert "broker.hosst: unknown key; did you mean 'host'?" in answer["error"]["detail"]


def test_init_makes_a_workspace_that_opens_and_refuses_a_second_one(tmp_path: Path) -> None:
    from roadloop_models.errors import NotFoundError
    from roadloop_models.packaged import packaged_bundles

    try:
        tasks = sorted(packaged_bundles())
    except NotFoundError:
        pytest.skip("the factory bundles are not there yet")
    made = run("init", tmp_path / "fleet", "--port", str(free_port()))
    assert [(entry["task"], entry["release"]) for entry in made["releases"]] == [(task, 1) for task in tasks]
    Workspace.open(tmp_path / "fleet")
    assert run("init", tmp_path / "fleet", expect=2)["error"]["code"] == "conflict"


def test_help_lists_every_command_without_importing_them() -> None:
    shown = subprocess.run([*ROADLOOP, "--help"], capture_output=True, text=True, check=True).stdout
    for name in ("init", "up", "broker", "vehicles", "telemetry", "models", "dataset", "retrain", "rollout", "keys"):
        assert name in shown
    code = "import sys; from roadloop_cloud import cli; assert not {'sqlalchemy', 'torch', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_every_command_has_help_with_an_example() -> None:
    import click

    from roadloop_cloud.cli import COMMANDS, main

    def walk(command: click.Command, context: click.Context) -> None:
        assert "Example:" in (command.help or ""), f"{context.command_path}: no example"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                walk(child, click.Context(child, info_name=name, parent=context))

    assert COMMANDS
    walk(main, click.Context(main, info_name="roadloop"))
