"""A workspace is made whole or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from roadloop_cloud.config import BrokerConfig, Config
from roadloop_cloud.founding import found_workspace
from roadloop_models.errors import BundleError, ConflictError
from tests.fakes.bundles import tiny_bundle

SLOW = """
import signal, sys, time
from pathlib import Path
from roadloop_cloud.config import Config
from roadloop_cloud.founding import found_workspace

# Whoever runs the tests in the background hands down an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

def step(text, done):
    if text.startswith("signing "):
        print("now", flush=True)
        time.sleep(60)

found_workspace(Path(sys.argv[1]), Config(), {"traffic-sign": Path(sys.argv[2])}, step)
"""


def quiet(_text: str, _done: float) -> None:
    """Progress that nobody watches."""


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    (bundle.directory / "labels.txt").write_text("tampered\n")
    with pytest.raises(BundleError, match=r"labels\.txt"):
        found_workspace(tmp_path / "fleet", Config(), {"traffic-sign": bundle.directory}, quiet)
    assert not (tmp_path / "fleet").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError):
        found_workspace(tmp_path / "empty", Config(), {"traffic-sign": bundle.directory}, quiet)
    assert list((tmp_path / "empty").iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "bundle")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SLOW, str(tmp_path / "fleet"), str(tmp_path / "bundle")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"now\n"
    assert (tmp_path / "fleet" / "ca" / "ca.key").is_file()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert not (tmp_path / "fleet").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError, match="not empty"):
        found_workspace(tmp_path, Config(), {}, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_secrets_are_their_owners_alone(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle")
    before = os.umask(0)
    try:
        found_workspace(tmp_path / "fleet", Config(broker=BrokerConfig()), {"traffic-sign": bundle.directory}, quiet)
    finally:
        os.umask(before)
    secrets = [path for path in (tmp_path / "fleet").rglob("*") if path.suffix in (".key", ".pem")]
    assert len(secrets) == 13  # CA, broker, two processes, four roles, a task, four of the director
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
