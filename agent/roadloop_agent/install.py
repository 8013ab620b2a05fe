"""`roadloop-agent install`: lays unit, user, folder and configuration, on this machine or in the tree of an image.

First everything is looked at, then everything is written: a refusal changes nothing. What a vehicle is (its identity,
what it trusts, its state) and what a person may have changed (vehicle.toml, the profile) are not overwritten.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from roadloop_agent.config import load_config
from roadloop_agent.update.store import RELEASES_NAME
from roadloop_models.errors import ConfigError, ConflictError, FailedError

UNIT = Path("/etc/systemd/system/roadloop-agent.service")
SYSUSERS = Path("/etc/sysusers.d/roadloop-agent.conf")
TMPFILES = Path("/etc/tmpfiles.d/roadloop-agent.conf")
DIRECTORY = Path("/var/lib/roadloop")
"""What the unit's StateDirectory= is: provisioning folder and state."""
_PROGRAM = "/opt/roadloop/bin/roadloop-agent"
_USER = "roadloop"
_USER_NAME = re.compile(r"^[a-z_][a-z0-9_-]{0,30}\Z")
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What the unit's ProtectHome= and PrivateTmp= keep from the service."""

Run = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Step:
    """What was done (or with a dry run would be): `action` is written, replaced, unchanged, kept or run."""

    path: str
    action: str
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What `install` did, and what comes next."""

    steps: list[Step]
    next: list[str]


@dataclass(frozen=True)
class Wish:
    """What the command line asks for. `program`: where the agent lies on the vehicle."""

    root: Path | None
    provisioning: Path | None
    user: str
    program: str
    force: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class _File:
    target: Path
    content: bytes
    mode: int
    keep: bool = False
    """Where it exists with other content, that is a person's: it stays."""
    refuse: bool = False
    """Where it exists with other content, this is another vehicle: nothing is changed."""


@dataclass
class _Plan:
    files: list[_File] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def running_program() -> str:
    """The agent of the interpreter that runs: its script, or the interpreter with `-m`."""
    script = Path(sys.executable).parent / "roadloop-agent"
    return str(script) if script.exists() else f"{sys.executable} -m roadloop_agent.cli"


def install(wish: Wish, run: Run, effective_uid: int) -> Report:
    """See the module.

    Raises ConfigError where an option, the provisioning folder or the right to write is missing, ConflictError where
    another vehicle is installed there, FailedError where the user cannot be made.
    """
    _check(wish, effective_uid)
    plan = _Plan()
    plan.files += _system_files(wish)
    if wish.provisioning is not None:
        plan.files += _provisioning_files(wish.provisioning)
    _compare(wish, plan)
    if not wish.dry_run:
        for file, step in zip(plan.files, plan.steps, strict=True):
            if step.action in ("written", "replaced"):
                _write(_place(wish, file.target), file.content, file.mode)
        _folder(_place(wish, DIRECTORY))
    plan.steps += _users(wish, run, effective_uid)
    return Report(plan.steps, _next(wish))


def _check(wish: Wish, effective_uid: int) -> None:
    if not _USER_NAME.match(wish.user):
        raise ConfigError(f"--user {wish.user}: lower-case letters, digits, '-' and '_', at most 31")
    if wish.root is not None:
        return
    if effective_uid != 0 and not wish.dry_run:
        raise ConfigError("install writes below /etc and /var/lib: run it as root, or with --root DIR to fill an image")
    if not Path("/run/systemd/system").is_dir() and not wish.dry_run:
        raise ConfigError("this machine is not run by systemd: use --root DIR to fill the tree of one that is")
    program = Path(wish.program.split()[0])
    for path in (program, Path(sys.base_prefix)):
        if str(path.resolve()).startswith(tuple(f"{hidden}/" for hidden in _HIDDEN)):
            raise ConfigError(
                f"{path}: the service does not see {', '.join(_HIDDEN)}; install Roadloop elsewhere, "
                "for example python3 -m venv /opt/roadloop, and run that one's roadloop-agent install"
            )


def _system_files(wish: Wish) -> Iterator[_File]:
    unit = _packaged("roadloop-agent.service").replace(_PROGRAM, _on_vehicle(wish))
    unit = unit.replace(f"User={_USER}\nGroup={_USER}\n", f"User={wish.user}\nGroup={wish.user}\n")
    yield _File(UNIT, unit.encode(), 0o644)
    sysusers = re.sub(rf"^([um]) {_USER}\b", rf"\1 {wish.user}", _packaged("roadloop-agent.sysusers.conf"), flags=re.M)
    yield _File(SYSUSERS, sysusers.encode(), 0o644)
    tmpfiles = _packaged("roadloop-agent.tmpfiles.conf").replace(f" {_USER} {_USER} ", f" {wish.user} {wish.user} ")
    yield _File(TMPFILES, tmpfiles.encode(), 0o644)


def _on_vehicle(wish: Wish) -> str:
    """The program as the vehicle sees it: one that lies in the image loses the image's path."""
    if wish.root is not None and wish.program.startswith(f"{wish.root.resolve()}/"):
        return wish.program.removeprefix(str(wish.root.resolve()))
    return wish.program


def _provisioning_files(source: Path) -> Iterator[_File]:
    """What makes a vehicle out of the folder; its state, where the agent has run there, is not among it."""
    config = load_config(source / "vehicle.toml")
    yield _read(source, Path("vehicle.toml"), keep=True)
    yield _read(source, Path(os.path.relpath(config.profile_path, config.directory)), keep=True)
    broker = config.broker
    sealing_key = os.path.relpath(config.sealing_key_path, config.directory)
    for name in (broker.ca, broker.certificate, broker.key, sealing_key):
        yield _read(source, Path(name), refuse=True)
    yield _read(source, Path(RELEASES_NAME), refuse=True)
    for folder in ("trust", "releases"):
        if not (source / folder).is_dir():
            raise ConfigError(f"{source / folder}: is missing; provision the vehicle with 'roadloop vehicles add'")
        for path in sorted((source / folder).rglob("*")):
            if path.is_file():
                yield _read(source, path.relative_to(source), refuse=True)
    for table in config.profile.sources.values():
        recording = config.source_path(table)
        if recording is not None and recording.is_file() and recording.is_relative_to(config.directory):
            yield _read(source, recording.relative_to(config.directory), keep=True)


def _read(source: Path, relative: Path, *, keep: bool = False, refuse: bool = False) -> _File:
    if relative.is_absolute() or ".." in relative.parts:
        raise ConfigError(f"{source / 'vehicle.toml'}: {relative} is not within the folder: only that is copied")
    try:
        content = (source / relative).read_bytes()
    except OSError as error:
        raise ConfigError(f"{source / relative}: {error.strerror or error}") from error
    return _File(DIRECTORY / relative, content, 0o600, keep, refuse)


def _compare(wish: Wish, plan: _Plan) -> None:
    refused: list[str] = []
    for file in plan.files:
        path = _place(wish, file.target)
        try:
            present = path.read_bytes()
        except FileNotFoundError:
            plan.steps.append(Step(str(path), "written"))
            continue
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from error
        if present == file.content:
            plan.steps.append(Step(str(path), "unchanged"))
        elif wish.force or not (file.keep or file.refuse):
            plan.steps.append(Step(str(path), "replaced"))
        else:
            plan.steps.append(Step(str(path), "kept", "differs; --force replaces it"))
            refused += [str(path)] if file.refuse else []
    if refused:
        raise ConflictError(
            f"{refused[0]}{f' and {len(refused) - 1} more' if len(refused) > 1 else ''}: another vehicle or release is "
            "installed here; nothing was changed. --force replaces it (the state stays); without --from it is left"
        )


def _users(wish: Wish, run: Run, effective_uid: int) -> list[Step]:
    """Make the user now where systemd can, and give it the folder; in an image the first boot does what is left."""
    owner = f"user {wish.user}"
    command = ["systemd-sysusers", *([] if wish.root is None else [f"--root={wish.root.resolve()}"]), SYSUSERS.name]
    if effective_uid != 0:
        return [Step(owner, "kept", f"at its first boot: {' '.join(command)}")]
    if wish.dry_run:
        return [Step(owner, "run", " ".join(command))]
    status = run(command)
    if status != 0 and wish.root is None:
        raise FailedError(f"{' '.join(command)}: exit code {status}")
    ids = _ids(wish) if status == 0 else None
    if ids is None:
        return [Step(owner, "kept", f"at its first boot: {' '.join(command)}")]
    directory = _place(wish, DIRECTORY)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, *ids, follow_symlinks=False)
    return [Step(owner, "run", " ".join(command)), Step(str(directory), "run", f"belongs to {wish.user}")]


def _ids(wish: Wish) -> tuple[int, int] | None:
    """User and group id, from the passwd file of the tree that is filled."""
    path = (wish.root or Path("/")) / "etc/passwd"
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, user_id, group_id, *_ = line.split(":")
            if name == wish.user:
                return int(user_id), int(group_id)
    except (OSError, ValueError):
        return None
    return None


def _next(wish: Wish) -> list[str]:
    config = DIRECTORY / "vehicle.toml"
    if wish.provisioning is None and not _place(wish, config).exists():
        return [f"roadloop-agent install --from PROVISIONING_FOLDER{f' --root {wish.root}' if wish.root else ''}"]
    if wish.root is not None:
        return [f"systemctl --root={wish.root} enable roadloop-agent"]
    program = _on_vehicle(wish)
    return [
        "systemctl daemon-reload",
        f"runuser -u {wish.user} -- {program} validate --config {config}",
        "systemctl enable --now roadloop-agent",
    ]


def _place(wish: Wish, target: Path) -> Path:
    return target if wish.root is None else wish.root / target.relative_to("/")


def _folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def _write(path: Path, content: bytes, mode: int) -> None:
    """By temporary file and rename: a unit or a key is never half there, nor readable by others for a moment."""
    path.parent.mkdir(mode=0o755 if mode & stat.S_IROTH else 0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
    temporary.rename(path)


def _packaged(name: str) -> str:
    """A file of firmware_configs/systemd: of the source tree, or of the wheel."""
    tree = Path(__file__).resolve().parents[2] / "firmware_configs" / "systemd" / name
    if tree.is_file():
        return tree.read_text(encoding="utf-8")
    return (resources.files("roadloop_agent") / "firmware_configs/systemd" / name).read_text(encoding="utf-8")


def run_command(command: Sequence[str]) -> int:
    """The exit code of a command; 127 where there is none of that name."""
    if shutil.which(command[0]) is None:
        return 127
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode
