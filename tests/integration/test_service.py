"""The systemd unit: sound, hardened, and the agent works under what it forbids."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from roadloop_agent.install import UNIT, Wish, install, run_command, running_program
from roadloop_models.contract.messages import Desired, Policy
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import Repository
from tests.fakes.sandbox import allowed_calls
from tests.fakes.small_cloud import SmallCloud

VAN = "van-1"
SANDBOX = Path(__file__).parents[1] / "fakes" / "sandbox.py"
EXPOSURE_TENTHS = 20
"""systemd-analyze counts in tenths: 2.0."""
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


@pytest.fixture
def van(tmp_path: Path, broker: MosquittoBroker, repository: Repository) -> TestVehicle:
    return TestVehicle(tmp_path / VAN, VAN, broker, repository, {"sign": tiny_bundle(tmp_path / "bundle")})


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as `install --root` lays it."""
    install(Wish(tmp_path / "image", None, "roadloop", running_program()), run_command, effective_uid=1000)
    return tmp_path / "image" / UNIT.relative_to("/")


def analyze(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_takes_the_unit_without_a_word(unit: Path) -> None:
    done = analyze("verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_systemd_finds_faults_where_there_are_some(unit: Path) -> None:
    unit.write_text(unit.read_text().replace("ExecStart=/", "ExecStart=/no/such/program/"))
    assert analyze("verify", unit).returncode != 0


@needs_systemd
def test_the_exposure_is_at_most_2(unit: Path) -> None:
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_TENTHS}", unit)
    assert done.returncode == 0, done.stdout
    unit.write_text("\n".join(line for line in unit.read_text().splitlines() if not line.startswith("Protect")))
    assert analyze("security", "--offline=yes", f"--threshold={EXPOSURE_TENTHS}", unit).returncode != 0


@needs_systemd
def test_the_unit_takes_away_what_only_a_superuser_would_call(unit: Path) -> None:
    allowed = allowed_calls(unit)
    assert {"read", "futex", "setpriority", "sendto", "bind"} <= allowed
    assert not allowed & {"mount", "chown", "setuid", "bpf", "ptrace", "init_module", "reboot", "ioprio_set"}


@needs_systemd
def test_the_agent_works_and_updates_under_what_the_unit_forbids(
    tmp_path: Path, unit: Path, van: TestVehicle, broker: MosquittoBroker, repository: Repository
) -> None:
    van.launcher = (sys.executable, str(SANDBOX), str(unit))
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 50)
        ref = repository.add(tiny_bundle(tmp_path / "next", "tiny-2"), 2)
        cloud.desire(VAN, Desired(version=1, slots={"sign": ref}, policy=Policy(health_window_s=2.0)))
        cloud.wait("release 2 runs", lambda: cloud.reported[VAN].slots["sign"].running == ref, 60)
        assert "Operation not permitted" not in van.log()


@needs_systemd
@pytest.mark.parametrize("task", ["traffic-sign", "traffic-speed"])
def test_the_runtimes_need_no_memory_that_is_writable_and_executable(unit: Path, task: str) -> None:
    from roadloop_models.packaged import packaged_bundles

    selftest = [sys.executable, "-m", "roadloop_agent.cli", "selftest", "--bundle", str(packaged_bundles()[task])]
    command = [sys.executable, str(SANDBOX), str(unit), *selftest]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"onnx-int8", "tflite-int8"} <= set(done.stdout.split())


@needs_systemd
def test_memory_that_is_writable_and_executable_would_be_refused(unit: Path) -> None:
    wanted = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)"
    command = [sys.executable, str(SANDBOX), str(unit), sys.executable, "-c", wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "PermissionError" in done.stderr
