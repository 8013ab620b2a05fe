"""The director: a TUF repository for each vehicle, whose targets name what that vehicle must run.

    director/root/N.root.json        one chain of roots for the fleet, signed by a key that stays offline
    director/vehicles/<vehicle>.json the newest timestamp, snapshot and targets of one vehicle, as they are sent

One file for each vehicle, because it changes at once or not at all. Everything in it can be signed again, so nothing
waits for the disk; version numbers begin at the clock, so what was lost or restored from a backup is signed under
numbers above all that any vehicle has seen. Timestamps are signed anew when a vehicle asks for one that is half through
its life: a vehicle that nobody hears of costs nothing. All three name the vehicle they are for; python-tuf's client
accepts those of any, so the vehicle checks that itself before it remembers anything.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from roadloop_cloud.files import locked, write_atomic
from roadloop_models.bundle import MANIFEST_NAME
from roadloop_models.contract.channels import check_vehicle_id
from roadloop_models.contract.messages import Desired, ReleaseRef
from roadloop_models.errors import ConfigError, ConflictError, TrustError
from roadloop_models.typed import from_json

DIRECTOR_ROOT, DIRECTOR_TARGETS = "director-root", "director-targets"
DIRECTOR_SNAPSHOT, DIRECTOR_TIMESTAMP = "director-snapshot", "director-timestamp"
DIRECTOR_OFFLINE = (DIRECTOR_ROOT,)
DIRECTOR_ONLINE = (DIRECTOR_TARGETS, DIRECTOR_SNAPSHOT, DIRECTOR_TIMESTAMP)
"""Names of the keys; TUF's role is what follows the dash."""
LIFETIMES = {
    DIRECTOR_ROOT: timedelta(days=365),
    DIRECTOR_TARGETS: timedelta(days=90),
    DIRECTOR_SNAPSHOT: timedelta(days=90),
    DIRECTOR_TIMESTAMP: timedelta(days=1),
}
RENEW_AT = 0.5
"""Share of its life after which metadata is signed anew."""
MAX_VERSION = 1 << 50
"""What a vehicle reports is believed up to here: one that says more must not take its numbers beyond JSON's."""

_ROOT_FILE = re.compile(r"^metadata/([1-9][0-9]{0,5})\.root\.json\Z")
_TIME = re.compile(r"^time/([0-9a-f]{32})\Z")
_COMPACT = JSONSerializer(compact=True)
SignedT = TypeVar("SignedT", Targets, Snapshot, Timestamp)
WrappedKeys = Callable[[str, ReleaseRef], Mapping[str, str]]

_log = logging.getLogger(__name__)


class _Vehicle(msgspec.Struct, frozen=True, kw_only=True):
    """`director/vehicles/<vehicle>.json`. `named` fingerprints what the targets name; `root` is the version of the root
    whose keys signed all this; the last two are when the timestamp, and when all three, are signed anew (UTC)."""

    named: str
    root: int
    version: int
    timestamp_version: int
    targets: str
    snapshot: str
    timestamp: str
    timestamp_due: datetime
    all_due: datetime
    since: datetime
    """When these targets were first named."""


class Directors:
    """See the module. Any number of processes may use one folder."""

    def __init__(
        self,
        folder: Path,
        online: Callable[[], Mapping[str, Signer]],
        manifest_bytes: Callable[[ReleaseRef], int | None],
        *,
        wrapped_keys: WrappedKeys = lambda vehicle, ref: {},
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`online` reads the online keys; `manifest_bytes` is the size of a release's signed manifest, None where the
        image repository has none; `wrapped_keys` are the content keys that a vehicle needs for a release."""
        self._roots = folder / "root"
        self._vehicles = folder / "vehicles"
        self._lock = folder / ".lock"
        self._online = online
        self._manifest_bytes = manifest_bytes
        self._wrapped_keys = wrapped_keys
        self._now = now
        self._root_version = 0
        self._signers: Mapping[str, Signer] = {}
        self._signers_of = 0
        self._versions: dict[str, int] = {}

    # Keys.

    def create(self, offline: Mapping[str, Signer]) -> None:
        """Sign the first root. Repeatable."""
        with locked(self._lock):
            if not self._root_path(1).exists():
                self._write_first_root(offline)

    def publish_root(self, root: Metadata[Root]) -> None:
        """Put the next root in place, which is signed already. Raises ConflictError where it is not the next.

        Each vehicle's metadata is signed with the keys that it names when that vehicle asks next.
        """
        with locked(self._lock):
            expected = self._newest_root() + 1
            if root.signed.version != expected:
                raise ConflictError(f"root {root.signed.version} of the director was signed, the next is {expected}")
            write_atomic(self._root_path(expected), root.to_bytes(_COMPACT))

    def trust_files(self) -> dict[str, bytes]:
        """What provisions a vehicle's trust in the director: relative path below trust/ -> content."""
        path = self._root_path(self._newest_root())
        try:
            return {"director/root.json": path.read_bytes()}
        except OSError as error:
            raise TrustError(f"{path}: {error.strerror or error}; the director has no root") from error

    def root(self) -> Root:
        """The newest root. Raises TrustError where it is missing or malformed."""
        return self.root_metadata().signed

    def root_metadata(self) -> Metadata[Root]:
        """The same with its signatures."""
        path = self._root_path(self._newest_root())
        try:
            return Metadata[Root].from_bytes(path.read_bytes())
        except (OSError, RepositoryError) as error:
            raise TrustError(f"{path}: {error}; the director has no root") from error

    # Assignments.

    def assign(self, vehicle: str, desired: Desired) -> int:
        """Name for a vehicle what it should run; the version of its targets. The same again changes nothing.

        Releases that the image repository does not have are left out: the vehicle would refuse them.
        """
        named = self._named(vehicle, desired)
        fingerprint = _fingerprint(desired.version, named)
        stored = self._read(vehicle)
        if stored is None or stored.named != fingerprint:
            with locked(self._lock):
                stored = self._sign(vehicle, self._targets(vehicle, desired, named), fingerprint, self._read(vehicle))
        self._versions[vehicle] = stored.version
        return stored.version

    def catch_up(self, vehicle: str, reported_version: int) -> None:
        """Overtake a vehicle that has seen a newer assignment than this folder, which was restored from a backup."""
        if self._versions.get(vehicle, 0) >= reported_version or reported_version > MAX_VERSION:
            return
        stored = self._read(vehicle)
        if stored is not None and stored.version < reported_version:
            with locked(self._lock):
                stored = self._sign_again(vehicle, self._read(vehicle) or stored, at_least=reported_version + 1)
        if stored is not None:
            self._versions[vehicle] = stored.version

    def behind_s(self, vehicle: str, reported_version: int) -> float:
        """Since when there is an assignment that is newer than the one a vehicle reports, in seconds; 0: there is none.

        One that is online and stays behind is kept from news: TUF cannot stop who drops its requests.
        """
        stored = self._read(vehicle)
        if stored is None or stored.version <= reported_version:
            return 0.0
        return (self._now() - stored.since).total_seconds()

    # Answers.

    def read(self, vehicle: str, name: str) -> bytes | None:
        """What that vehicle gets for `director/<name>`; None where there is no such file for it.

        `name` never names a vehicle: nobody can ask for what is another's.
        """
        if match := _TIME.match(name):
            return self._time_statement(vehicle, match.group(1))
        if match := _ROOT_FILE.match(name):
            path = self._root_path(int(match.group(1)))
            return path.read_bytes() if path.exists() else None
        stored = self._read(vehicle)
        if stored is None:
            return None
        if stored.timestamp_due <= self._now() or stored.all_due <= self._now() or stored.root < self._newest_root():
            with locked(self._lock):
                stored = self._renewed(vehicle, self._read(vehicle) or stored)
        files = {
            "metadata/timestamp.json": stored.timestamp,
            f"metadata/{stored.version}.snapshot.json": stored.snapshot,
            f"metadata/{stored.version}.targets.json": stored.targets,
        }
        content = files.get(name)
        return None if content is None else content.encode()

    def _time_statement(self, vehicle: str, nonce: str) -> bytes:
        """The time now, for whoever made the nonce: signed like the timestamp, and read as nothing else."""
        said = {"_type": "time", "nonce": nonce, "time": f"{self._now():%Y-%m-%dT%H:%M:%SZ}", "vehicle": vehicle}
        payload = msgspec.json.encode(said)
        signature = self._signer(DIRECTOR_TIMESTAMP).sign(payload)
        return msgspec.json.encode({"payload": payload.decode(), "signatures": [signature.to_dict()]})

    # Signing.

    def _named(self, vehicle: str, desired: Desired) -> dict[str, dict[str, Any]]:
        """Target path -> length, SHA-256 and what it is for."""
        named: dict[str, dict[str, Any]] = {}
        for use, wanted in (("slots", desired.slots), ("shadow_slots", desired.shadows)):
            for slot, ref in sorted(wanted.items()):
                size_bytes = self._manifest_bytes(ref)
                if size_bytes is None:
                    _log.warning("%s: the image repository has no release %d of %s", vehicle, ref.release, ref.task)
                    continue
                empty = {"ref": ref, "length": size_bytes, "slots": [], "shadow_slots": []}
                named.setdefault(f"{ref.task}/{ref.release}/{MANIFEST_NAME}", empty)[use].append(slot)
        return named

    def _targets(self, vehicle: str, desired: Desired, named: Mapping[str, Mapping[str, Any]]) -> Targets:
        targets = {}
        for path, name in named.items():
            ref: ReleaseRef = name["ref"]
            custom = {"slots": name["slots"], "release": ref.release, "version": ref.version}
            if name["shadow_slots"]:
                custom["shadow_slots"] = name["shadow_slots"]
            if keys := self._wrapped_keys(vehicle, ref):
                custom["keys"] = dict(keys)
            fields = {"custom": custom}
            targets[path] = TargetFile(name["length"], {"sha256": ref.manifest_sha256}, path, fields)
        return Targets(targets=targets, unrecognized_fields={"vehicle": vehicle, "counter": desired.version})

    def _renewed(self, vehicle: str, stored: _Vehicle) -> _Vehicle:
        """Sign anew what is due; only the timestamp where that is all."""
        if stored.all_due <= self._now() or stored.root < self._newest_root():
            return self._sign_again(vehicle, stored)
        if stored.timestamp_due > self._now():
            return stored  # somebody else has done it meanwhile
        renewed = msgspec.structs.replace(stored, **self._timestamp(vehicle, stored.version, stored.timestamp_version))
        return self._write(vehicle, renewed)

    def _sign_again(self, vehicle: str, stored: _Vehicle, at_least: int = 0) -> _Vehicle:
        targets = Metadata[Targets].from_bytes(stored.targets.encode()).signed
        return self._sign(vehicle, targets, stored.named, stored, at_least)

    def _sign(
        self, vehicle: str, targets: Targets, fingerprint: str, before: _Vehicle | None, at_least: int = 0
    ) -> _Vehicle:
        """Sign all three under numbers above those before."""
        version = max(0 if before is None else before.version + 1, at_least, int(self._now().timestamp()))
        snapshot = Snapshot(meta={"targets.json": MetaFile(version)}, unrecognized_fields={"vehicle": vehicle})
        for role, signed in ((DIRECTOR_TARGETS, targets), (DIRECTOR_SNAPSHOT, snapshot)):
            signed.version, signed.expires = version, self._expiry(role)
        timestamp = self._timestamp(vehicle, version, 0 if before is None else before.timestamp_version)
        made = _Vehicle(
            named=fingerprint,
            root=self._newest_root(),
            version=version,
            targets=self._signed(DIRECTOR_TARGETS, targets),
            snapshot=self._signed(DIRECTOR_SNAPSHOT, snapshot),
            all_due=self._due(DIRECTOR_TARGETS),
            since=before.since if before is not None and before.named == fingerprint else self._now(),
            **timestamp,
        )
        return self._write(vehicle, made)

    def _timestamp(self, vehicle: str, snapshot_version: int, before: int) -> dict[str, Any]:
        version = max(before + 1, snapshot_version, int(self._now().timestamp()))
        timestamp = Timestamp(
            version=version,
            expires=self._expiry(DIRECTOR_TIMESTAMP),
            snapshot_meta=MetaFile(snapshot_version),
            unrecognized_fields={"vehicle": vehicle},
        )
        return {
            "timestamp": self._signed(DIRECTOR_TIMESTAMP, timestamp),
            "timestamp_version": version,
            "timestamp_due": self._due(DIRECTOR_TIMESTAMP),
        }

    def _signed(self, key: str, signed: SignedT) -> str:
        metadata = Metadata(signed)
        metadata.sign(self._signer(key))
        return metadata.to_bytes(_COMPACT).decode()

    def _signer(self, key: str) -> Signer:
        """The signer that the newest root names for this. Raises ConfigError where its key is not here."""
        newest = self._newest_root()
        if newest != self._signers_of:
            keyids = {key: self.root().roles[_role(key)].keyids for key in DIRECTOR_ONLINE}
            online = self._online().values()
            self._signers = {
                key: signer for key, named in keyids.items() for signer in online if signer.public_key.keyid in named
            }
            self._signers_of = newest
        try:
            return self._signers[key]
        except KeyError:
            raise ConfigError(
                f"root {newest} of the director names a {key} key that is not among the online keys: put it in place, "
                "or sign a new root for those that are"
            ) from None

    def _write_first_root(self, offline: Mapping[str, Signer]) -> None:
        root = Root(expires=self._expiry(DIRECTOR_ROOT), consistent_snapshot=True)
        present = {**offline, **self._online()}
        for key in (DIRECTOR_ROOT, *DIRECTOR_ONLINE):
            root.add_key(_newest(present, key).public_key, _role(key))
        metadata = Metadata(root)
        metadata.sign(_newest(offline, DIRECTOR_ROOT))
        write_atomic(self._root_path(1), metadata.to_bytes(_COMPACT))

    # Files.

    def _newest_root(self) -> int:
        """Looked for each time, by one call of the system: another process may have signed a new one."""
        while self._root_path(self._root_version + 1).exists():
            self._root_version += 1
        return self._root_version

    def _root_path(self, version: int) -> Path:
        return self._roots / f"{version}.root.json"

    def _read(self, vehicle: str) -> _Vehicle | None:
        path = self._vehicles / f"{check_vehicle_id(vehicle)}.json"
        try:
            return from_json(path.read_bytes(), _Vehicle)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # torn by a power cut: it is assigned anew
            _log.error("%s: %s", path, error)
            return None

    def _write(self, vehicle: str, content: _Vehicle) -> _Vehicle:
        self._vehicles.mkdir(parents=True, exist_ok=True)
        temporary = self._vehicles / f".{vehicle}.partial"
        temporary.write_bytes(msgspec.json.encode(content))
        temporary.replace(self._vehicles / f"{vehicle}.json")
        return content

    def _expiry(self, key: str) -> datetime:
        return self._now().replace(microsecond=0) + LIFETIMES[key]

    def _due(self, key: str) -> datetime:
        return self._now() + LIFETIMES[key] * RENEW_AT


class ManifestSizes:
    """Sizes of the signed manifests of an image repository's folder; what is released never changes."""

    def __init__(self, repository: Path) -> None:
        self._targets = repository / "targets"
        self._known: dict[ReleaseRef, int] = {}

    def __call__(self, ref: ReleaseRef) -> int | None:
        """In bytes; None where there is no such release."""
        if ref not in self._known:
            path = self._targets / ref.task / str(ref.release) / f"{ref.manifest_sha256}.{MANIFEST_NAME}"
            try:
                self._known[ref] = path.stat().st_size
            except OSError:
                return None
        return self._known[ref]


def _role(key: str) -> str:
    return key.removeprefix("director-")


def _newest(signers: Mapping[str, Signer], key: str) -> Signer:
    """The key of that name, or the one that came later, `<name>@<id>`. Raises ConfigError where there is none."""
    found = [signer for name, signer in sorted(signers.items()) if name.partition("@")[0] == key]
    if not found:
        raise ConfigError(f"no {key} key: put the folder that has it in place")
    return found[-1]


def _fingerprint(counter: int, named: Mapping[str, Mapping[str, Any]]) -> str:
    return hashlib.sha256(msgspec.json.encode([counter, named])).hexdigest()
