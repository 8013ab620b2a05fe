"""The folder that provisions a vehicle: configuration, identity, trust and the releases that it starts with.

The agent reads it; both sides agree on the layout through this module's tests and the agent's.
"""

import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

from roadloop_cloud.files import write_atomic
from roadloop_cloud.identity.authority import Identity, write_identity
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.manifest import MANIFEST_NAME
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import ConfigError, ConflictError
from roadloop_models.sealed import KEY_FILE, encode_key_file

_SOURCE_TREE = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Profile:
    """A hardware profile: its text goes to the vehicle as it is; the cloud needs to know only this of it."""

    name: str
    text: str
    hardware: str
    tasks: dict[str, str]
    """Slot -> task."""


@dataclass(frozen=True)
class InitialRelease:
    """A release that a vehicle starts with, and its bundle."""

    ref: ReleaseRef
    bundle: Bundle


@dataclass(frozen=True)
class Provisioning:
    """All that goes into the folder."""

    vehicle: str
    broker_host: str
    broker_port: int
    profile: Profile
    identity: Identity
    authority: bytes
    """The CA's certificate, PEM."""
    sealing_key: bytes
    """The private key that opens sealed releases, PEM."""
    trust: Mapping[str, bytes]
    """Relative path below trust/ -> content."""
    releases: Mapping[str, InitialRelease]
    """By slot."""
    files_url: str | None = None
    """Where files are had by HTTPS."""
    content_keys: Mapping[str, bytes] = field(default_factory=dict)
    """Those of sealed releases, wrapped for this vehicle, by the SHA-256 of the manifest."""


def packaged_profiles() -> dict[str, Traversable]:
    """Profiles that Roadloop comes with: name -> file."""
    folder = _SOURCE_TREE / "firmware_configs" / "profiles"
    found: Traversable = folder if folder.is_dir() else resources.files("roadloop_agent") / "firmware_configs/profiles"
    if not found.is_dir():
        return {}
    return {entry.name.removesuffix(".toml"): entry for entry in found.iterdir() if entry.name.endswith(".toml")}


def load_profile(name_or_path: str) -> Profile:
    """A profile by file, or by the name of a packaged one. Raises ConfigError naming the file and the field."""
    path = Path(name_or_path)
    packaged = {} if path.is_file() else packaged_profiles()
    if not path.is_file() and name_or_path not in packaged:
        raise ConfigError(
            f"profile {name_or_path}: no such file, and the packaged ones are {', '.join(sorted(packaged))}"
        )
    text = (path if path.is_file() else packaged[name_or_path]).read_text(encoding="utf-8")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name_or_path}: {error}") from error
    hardware, slots = raw.get("hardware"), raw.get("slots")
    if not isinstance(hardware, str) or not hardware:
        raise ConfigError(f"{name_or_path}: 'hardware' is missing or no text")
    if not isinstance(slots, dict) or not slots:
        raise ConfigError(f"{name_or_path}: there are no [slots.…]")
    tasks = {}
    for slot, fields in slots.items():
        task = fields.get("task") if isinstance(fields, dict) else None
        if not isinstance(task, str):
            raise ConfigError(f"{name_or_path}: slots.{slot}: 'task' is missing or no text")
        tasks[slot] = task
    return Profile(path.stem if path.is_file() else name_or_path, text, hardware, tasks)


def write_provisioning(directory: Path, provisioning: Provisioning) -> None:
    """Write the folder as a whole. Raises ConflictError where it exists and is not empty."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConflictError(f"{directory}: exists and is not empty; choose another --output or remove it")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    try:
        _fill(temporary, provisioning)
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _fill(directory: Path, provisioning: Provisioning) -> None:
    write_atomic(directory / "vehicle.toml", _vehicle_toml(provisioning).encode())
    write_atomic(directory / "profile.toml", provisioning.profile.text.encode())
    write_atomic(directory / "identity" / "ca.crt", provisioning.authority)
    write_identity(
        provisioning.identity, directory / "identity" / "vehicle.crt", directory / "identity" / "vehicle.key"
    )
    write_atomic(directory / "identity" / "sealing.key", provisioning.sealing_key, 0o600)
    for relative, content in provisioning.trust.items():
        write_atomic(directory / "trust" / relative, content)
    slots = {slot: release.ref for slot, release in provisioning.releases.items()}
    write_atomic(directory / "releases.json", msgspec.json.format(msgspec.json.encode({"slots": slots})) + b"\n")
    for release in provisioning.releases.values():
        key = provisioning.content_keys.get(release.ref.manifest_sha256)
        _copy_bundle(release, directory / "releases" / release.ref.manifest_sha256, key)


def _copy_bundle(release: InitialRelease, target: Path, wrapped_key: bytes | None) -> None:
    if target.exists():  # two slots with the same task
        return
    manifest = release.bundle.manifest
    needed = {entry.path for variant in manifest.variants for entry in manifest.files_for(variant)}
    for relative in (MANIFEST_NAME, *sorted(needed)):
        write_atomic(target / relative, (release.bundle.directory / relative).read_bytes())
    if manifest.sealed is not None and wrapped_key is None:
        raise ConfigError(f"release {release.ref.release} of {release.ref.task} is sealed: its content key is missing")
    if wrapped_key is not None:
        write_atomic(target / KEY_FILE, encode_key_file(wrapped_key), 0o600)
    for variant in manifest.variants:
        Bundle.open(target, variant.key)


def _vehicle_toml(provisioning: Provisioning) -> str:
    # A JSON string of printable text is a TOML string too.
    files = "" if provisioning.files_url is None else f"\n[files]\nurl = {json.dumps(provisioning.files_url)}\n"
    return f"""\
# Written by 'roadloop vehicles add'. Paths are relative to this file.

[vehicle]
id = {json.dumps(provisioning.vehicle)}
profile = "profile.toml"
state_dir = "state"

[broker]
host = {json.dumps(provisioning.broker_host)}
port = {provisioning.broker_port}
ca = "identity/ca.crt"
certificate = "identity/vehicle.crt"
key = "identity/vehicle.key"
keepalive_s = 30
reconnect_min_s = 0.5
reconnect_max_s = 60
{files}
[spool]
max_bytes = {256 * 1024 * 1024}
retain_committed_s = 86400

[telemetry]
batch_samples = 100
batch_age_s = 5.0
health_period_s = 1.0
"""
