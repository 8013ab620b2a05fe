"""What `install` lays, keeps and refuses; without root and without systemd."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from roadloop_agent.install import DIRECTORY, SYSUSERS, TMPFILES, UNIT, Report, Wish, install
from roadloop_agent.update.store import ProvisionedReleases
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import ConfigError, ConflictError

PROGRAM = "/opt/fleet/bin/roadloop-agent"
PROFILE = """
hardware = "test"
[sources.camera]
kind = "images"
path = "frames/one.png"
[slots.sign]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = 5.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A provisioning folder in which the agent has run."""
    ref = ReleaseRef(task="traffic-sign", release=1, version="v1", manifest_sha256="a" * 64)
    files = {
        "vehicle.toml": b'[vehicle]\nid = "van-1"\n[broker]\nhost = "broker.test"\n',
        "profile.toml": PROFILE.encode(),
        "identity/ca.crt": b"ca",
        "identity/vehicle.crt": b"certificate",
        "identity/vehicle.key": b"key",
        "identity/sealing.key": b"sealing key",
        "releases.json": msgspec.json.encode(ProvisionedReleases({"sign": ref})),
        f"releases/{'a' * 64}/manifest.json": b"{}",
        "trust/root.json": b"{}",
        "trust/metadata/targets.json": b"{}",
        "frames/one.png": b"png",
        "state/boot": b"7\n",
        "agent.log": b"log",
    }
    for name, content in files.items():
        (tmp_path / "van-1" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "van-1" / name).write_bytes(content)
    return tmp_path / "van-1"


def lay(root: Path, provisioning: Path | None = None, *, force: bool = False, dry_run: bool = False) -> Report:
    def run(command: Sequence[str]) -> int:
        raise AssertionError(f"nobody but root runs {command}")

    return install(Wish(root, provisioning, "fleet", PROGRAM, force, dry_run), run, effective_uid=1000)


def actions(report: Report) -> dict[str, str]:
    return {Path(step.path).name: step.action for step in report.steps}


def test_everything_is_laid_and_nothing_else(tmp_path: Path, folder: Path) -> None:
    root = tmp_path / "image"
    lay(root, folder)
    laid = {f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_file()}
    copied = ["vehicle.toml", "profile.toml", "identity/ca.crt", "identity/vehicle.crt", "identity/vehicle.key"]
    copied += [
        "identity/sealing.key",
        "releases.json",
        f"releases/{'a' * 64}/manifest.json",
        "trust/root.json",
        "trust/metadata/targets.json",
    ]
    copied += ["frames/one.png"]
    assert laid == {str(UNIT), str(SYSUSERS), str(TMPFILES), *(str(DIRECTORY / name) for name in copied)}
    assert (root / "var/lib/roadloop").stat().st_mode & 0o777 == 0o700
    assert (root / "var/lib/roadloop/identity/vehicle.key").stat().st_mode & 0o777 == 0o600
    assert (root / "var/lib/roadloop/identity/sealing.key").stat().st_mode & 0o777 == 0o600
    assert (root / str(UNIT)[1:]).stat().st_mode & 0o777 == 0o644
    unit = (root / str(UNIT)[1:]).read_text().splitlines()
    assert f"ExecStart={PROGRAM} run --config /var/lib/roadloop/vehicle.toml" in unit
    assert {"User=fleet", "Group=fleet", "StateDirectory=roadloop"} <= set(unit)
    assert "m fleet video" in (root / str(SYSUSERS)[1:]).read_text().splitlines()
    assert "Z /var/lib/roadloop - fleet fleet -" in (root / str(TMPFILES)[1:]).read_text().splitlines()


def test_again_it_changes_nothing(tmp_path: Path, folder: Path) -> None:
    lay(tmp_path / "image", folder)
    report = lay(tmp_path / "image", folder)
    assert set(actions(report).values()) == {"unchanged", "kept"}
    assert [step.path for step in report.steps if step.action == "kept"] == ["user fleet"]
    assert report.next == [f"systemctl --root={tmp_path / 'image'} enable roadloop-agent"]


def test_a_dry_run_writes_nothing(tmp_path: Path, folder: Path) -> None:
    report = lay(tmp_path / "image", folder, dry_run=True)
    assert not (tmp_path / "image").exists()
    assert actions(report)["vehicle.key"] == "written"


def test_a_changed_configuration_stays_until_it_is_forced(tmp_path: Path, folder: Path) -> None:
    lay(tmp_path / "image", folder)
    config = tmp_path / "image/var/lib/roadloop/vehicle.toml"
    config.write_text(config.read_text() + "[spool]\nmax_bytes = 9000000\n")
    changed = config.read_bytes()
    assert actions(lay(tmp_path / "image", folder))["vehicle.toml"] == "kept"
    assert config.read_bytes() == changed
    assert actions(lay(tmp_path / "image", folder, force=True))["vehicle.toml"] == "replaced"
    assert config.read_bytes() == (folder / "vehicle.toml").read_bytes()


@pytest.mark.parametrize("name", ["identity/vehicle.key", "identity/sealing.key", "releases.json", "trust/root.json"])
def test_another_vehicle_is_refused_as_a_whole(tmp_path: Path, folder: Path, name: str) -> None:
    lay(tmp_path / "image", folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    (tmp_path / "image" / str(UNIT)[1:]).write_text("of an older version")
    with pytest.raises(ConflictError, match=r"installed here; nothing was changed\. --force"):
        lay(tmp_path / "image", folder)
    assert (tmp_path / "image" / str(UNIT)[1:]).read_text() == "of an older version"
    lay(tmp_path / "image", folder, force=True)
    assert (tmp_path / "image/var/lib/roadloop" / name).read_bytes() == (folder / name).read_bytes()


def test_state_is_never_touched(tmp_path: Path, folder: Path) -> None:
    boot = tmp_path / "image/var/lib/roadloop/state/boot"
    boot.parent.mkdir(parents=True)
    boot.write_text("41\n")
    lay(tmp_path / "image", folder, force=True)
    assert boot.read_text() == "41\n"


def test_without_a_folder_the_next_step_is_to_give_one(tmp_path: Path) -> None:
    report = lay(tmp_path / "image")
    assert report.next == [f"roadloop-agent install --from PROVISIONING_FOLDER --root {tmp_path / 'image'}"]


def test_a_folder_that_reaches_out_of_itself_is_refused(tmp_path: Path, folder: Path) -> None:
    (folder / "vehicle.toml").write_text(
        '[vehicle]\nid = "van-1"\n[broker]\nhost = "broker.test"\nkey = "../elsewhere.key"\n'
    )
    with pytest.raises(ConfigError, match="is not within the folder"):
        lay(tmp_path / "image", folder)
    assert not (tmp_path / "image").exists()


def test_without_root_and_without_a_tree_it_says_what_to_do(folder: Path) -> None:
    with pytest.raises(ConfigError, match="run it as root, or with --root DIR"):
        install(Wish(None, folder, "roadloop", PROGRAM), lambda command: 0, effective_uid=1000)
    with pytest.raises(ConfigError, match="--user Fleet"):
        install(Wish(None, folder, "Fleet", PROGRAM), lambda command: 0, effective_uid=0)


def test_a_program_in_the_image_is_named_as_the_vehicle_sees_it(tmp_path: Path) -> None:
    root = tmp_path / "image"
    install(Wish(root, None, "roadloop", f"{root}/opt/x/roadloop-agent"), lambda command: 0, effective_uid=1000)
    assert "ExecStart=/opt/x/roadloop-agent run" in (root / str(UNIT)[1:]).read_text()
