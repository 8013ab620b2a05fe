"""The TUF image repository: the files of all releases, and the metadata that signs them.

Layout (specification 1.0, consistent snapshots): `metadata/N.root.json`, `N.targets.json`, `N.snapshot.json` and
`timestamp.json`; `targets/<task>/<release>/<sha256>.<name>`. What `timestamp.json` leads to is the repository; any
other file is either history or was left by a writer that died. So writing in the order files, targets, snapshot,
timestamp makes each publication appear at once or not at all, and doing it again after a kill completes it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from roadloop_cloud.files import copy_atomic, locked, write_atomic
from roadloop_cloud.registry.keys import OFFLINE_ROLES, ONLINE_ROLES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from roadloop_models.errors import ConflictError, TrustError

LIFETIMES = {
    ROOT: timedelta(days=365),
    TARGETS: timedelta(days=90),
    SNAPSHOT: timedelta(days=7),
    TIMESTAMP: timedelta(days=1),
}
RENEW_AT = 0.5
"""Share of its life after which metadata is signed anew: vehicles that were offline for the other half keep working."""

SignedT = TypeVar("SignedT", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class NewTarget:
    """A file to publish under a target name such as `traffic-sign/2/manifest.json`."""

    name: str
    source: Path
    custom: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RoleStatus:
    """One role's current metadata."""

    role: str
    version: int
    expires: datetime
    key_ids: tuple[str, ...]


class ImageRepository:
    """The repository below one directory. Writers exclude each other by a lock file; readers need no lock."""

    def __init__(self, root: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`now` is wall time: expiry dates are about nothing else."""
        self.root = root
        self._now = now
        self._metadata = root / "metadata"
        self._lock = root / ".lock"

    def create(self, offline: Mapping[str, Signer], online: Mapping[str, Signer]) -> None:
        """Write the first metadata of all roles. Repeatable; does nothing where the repository is complete."""
        with locked(self._lock):
            if (self._metadata / "timestamp.json").exists():
                return
            signers = {**offline, **online}
            root = Root(expires=self._expiry(ROOT), consistent_snapshot=True)
            for role in (*OFFLINE_ROLES, *ONLINE_ROLES):
                root.add_key(signers[role].public_key, role)
            self._write(Metadata(root), offline[ROOT])
            self._write(Metadata(Targets(expires=self._expiry(TARGETS))), offline[TARGETS])
            self._write_online(1, online, snapshot_version=1, timestamp_version=1)

    def publish(self, files: Sequence[NewTarget], offline: Mapping[str, Signer], online: Mapping[str, Signer]) -> bool:
        """Add files as signed targets; returns whether anything was new. Repeatable.

        Raises ConflictError where a name is taken by other content: what was released never changes.
        """
        with locked(self._lock):
            targets = self._targets()
            before = dict(targets.signed.targets)
            for file in files:
                targets.signed.targets[file.name] = self._target(file, before.get(file.name))
            for file in files:
                self._put(file, targets.signed.targets[file.name])
            if targets.signed.targets == before:
                return False
            self._sign_targets(targets, offline, online)
            return True

    def renew_offline(self, offline: Mapping[str, Signer], online: Mapping[str, Signer]) -> None:
        """Sign root and targets anew, so that their lives begin again."""
        with locked(self._lock):
            root = self._newest_root()
            root.signed.version += 1
            root.signed.expires = self._expiry(ROOT)
            self._write(root, offline[ROOT])
            self._sign_targets(self._targets(), offline, online)

    def renew_online(self, online: Mapping[str, Signer]) -> bool:
        """Sign snapshot and timestamp anew where half of the life of either is over; returns whether it was."""
        with locked(self._lock):
            snapshot, timestamp = self._snapshot(), self._timestamp()
            if self._is_due(snapshot.signed):
                targets_version = snapshot.signed.meta["targets.json"].version
                self._write_online(targets_version, online, snapshot.signed.version + 1, timestamp.signed.version + 1)
            elif self._is_due(timestamp.signed):
                self._write_timestamp(snapshot.signed.version, online, timestamp.signed.version + 1)
            else:
                return False
            return True

    def targets(self) -> dict[str, TargetFile]:
        """All signed targets by name. Raises TrustError where metadata is missing or malformed."""
        return dict(self._targets().signed.targets)

    def trust_files(self) -> dict[str, bytes]:
        """What provisions a vehicle's trust: `root.json` (the first root) and the current `metadata/<role>.json`.

        Raises TrustError where metadata is missing or malformed.
        """
        current = (self._newest_root(), self._timestamp(), self._snapshot(), self._targets())
        files = {f"metadata/{meta.signed.type}.json": meta.to_bytes() for meta in current}
        return {"root.json": self._read("1.root.json", Root).to_bytes(), **files}

    def status(self) -> list[RoleStatus]:
        """Version, expiry and keys of every role. Raises TrustError where metadata is missing or malformed."""
        root = self._newest_root().signed
        current = (root, self._targets().signed, self._snapshot().signed, self._timestamp().signed)
        return [
            RoleStatus(signed.type, signed.version, signed.expires, tuple(root.roles[signed.type].keyids))
            for signed in current
        ]

    def _target(self, file: NewTarget, existing: TargetFile | None) -> TargetFile:
        made = TargetFile.from_file(file.name, str(file.source), ["sha256"])
        if file.custom is not None:
            made.unrecognized_fields["custom"] = dict(file.custom)
        if existing is not None and existing != made:
            raise ConflictError(f"target {file.name}: released already with other content; choose a new release number")
        return made

    def _put(self, file: NewTarget, target: TargetFile) -> None:
        name = PurePosixPath(file.name)
        path = self.root / "targets" / name.parent / f"{target.hashes['sha256']}.{name.name}"
        if not path.exists():
            copy_atomic(file.source, path)

    def _sign_targets(
        self, targets: Metadata[Targets], offline: Mapping[str, Signer], online: Mapping[str, Signer]
    ) -> None:
        snapshot_version = self._snapshot().signed.version
        timestamp_version = self._timestamp().signed.version
        targets.signed.version += 1
        targets.signed.expires = self._expiry(TARGETS)
        self._write(targets, offline[TARGETS])
        self._write_online(targets.signed.version, online, snapshot_version + 1, timestamp_version + 1)

    def _write_online(
        self, targets_version: int, online: Mapping[str, Signer], snapshot_version: int, timestamp_version: int
    ) -> None:
        snapshot = Snapshot(version=snapshot_version, expires=self._expiry(SNAPSHOT))
        snapshot.meta["targets.json"] = MetaFile(targets_version)
        self._write(Metadata(snapshot), online[SNAPSHOT])
        self._write_timestamp(snapshot_version, online, timestamp_version)

    def _write_timestamp(self, snapshot_version: int, online: Mapping[str, Signer], version: int) -> None:
        timestamp = Timestamp(
            version=version, expires=self._expiry(TIMESTAMP), snapshot_meta=MetaFile(snapshot_version)
        )
        self._write(Metadata(timestamp), online[TIMESTAMP])

    def _write(self, metadata: Metadata[SignedT], signer: Signer) -> None:
        metadata.sign(signer)
        signed = metadata.signed
        name = "timestamp.json" if signed.type == TIMESTAMP else f"{signed.version}.{signed.type}.json"
        write_atomic(self._metadata / name, metadata.to_bytes())

    def _timestamp(self) -> Metadata[Timestamp]:
        return self._read("timestamp.json", Timestamp)

    def _snapshot(self) -> Metadata[Snapshot]:
        return self._read(f"{self._timestamp().signed.snapshot_meta.version}.snapshot.json", Snapshot)

    def _targets(self) -> Metadata[Targets]:
        return self._read(f"{self._snapshot().signed.meta['targets.json'].version}.targets.json", Targets)

    def _newest_root(self) -> Metadata[Root]:
        version = 1
        while (self._metadata / f"{version + 1}.root.json").exists():
            version += 1
        return self._read(f"{version}.root.json", Root)

    def _read(self, name: str, kind: type[SignedT]) -> Metadata[SignedT]:
        path = self._metadata / name
        try:
            metadata = Metadata[SignedT].from_bytes(path.read_bytes())
        except OSError as error:
            raise TrustError(f"{path}: {error.strerror or error}; the image repository is incomplete") from error
        except RepositoryError as error:
            raise TrustError(f"{path}: {error}") from error
        if not isinstance(metadata.signed, kind):
            raise TrustError(f"{path}: is of role {metadata.signed.type}")
        return metadata

    def _expiry(self, role: str) -> datetime:
        return self._now().replace(microsecond=0) + LIFETIMES[role]

    def _is_due(self, signed: Signed) -> bool:
        return signed.expires - self._now() < LIFETIMES[signed.type] * (1 - RENEW_AT)
