"""The TUF image repository: the files of all releases, and the metadata that signs them.

Layout (specification 1.0, consistent snapshots): `metadata/N.root.json`, `N.targets.json`, `N.<task>.json`,
`N.snapshot.json` and `timestamp.json`; `targets/<task>/<release>/<sha256>.<name>`. Role targets signs no file itself,
it delegates each task to a key of its own, so that a vehicle fetches what concerns its tasks only.

What `timestamp.json` leads to is the repository; any other file is either history or was left by a writer that died.
So writing in the order files, tasks, targets, snapshot, timestamp makes each publication appear at once or not at all,
and doing it again after a kill completes it. A new root comes last: what lies there by then holds under both roots.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from roadloop_cloud.files import copy_atomic, locked, write_atomic
from roadloop_cloud.registry.change import Change, Offline, Published, sign_metadata
from roadloop_cloud.registry.keys import (
    OFFLINE_ROLES,
    ONLINE_ROLES,
    ROOT,
    SHORT_ID,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    role_of,
)
from roadloop_models.errors import ConfigError, ConflictError, TrustError

LIFETIMES = {
    ROOT: timedelta(days=365),
    TARGETS: timedelta(days=90),
    SNAPSHOT: timedelta(days=7),
    TIMESTAMP: timedelta(days=1),
}
"""Of tasks' roles: that of targets."""
MAX_METADATA_BYTES = 512 * 1024
"""Of one file: as much as vehicles read."""
RENEW_AT = 0.5
"""Share of its life after which metadata is signed anew: vehicles that were offline for the other half keep working."""

_COMPACT = JSONSerializer(compact=True)
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
    threshold: int


class ImageRepository:
    """The repository below one directory. Writers exclude each other by a lock file; readers need no lock."""

    def __init__(self, root: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`now` is wall time: expiry dates are about nothing else."""
        self.root = root
        self._now = now
        self._metadata = root / "metadata"
        self._lock = root / ".lock"

    def create(self, offline: Mapping[str, Signer], online: Mapping[str, Signer], tasks: Iterable[str] = ()) -> None:
        """Write the first metadata of all roles, by the signers of those names. Repeatable; does nothing where the
        repository is complete."""
        with locked(self._lock):
            if (self._metadata / "1.root.json").exists():
                return
            signers = {**offline, **online}
            root = Root(expires=self._expiry(ROOT), consistent_snapshot=True)
            for role in (*OFFLINE_ROLES, *ONLINE_ROLES):
                root.add_key(signers[role].public_key, role)
            targets = Targets(expires=self._expiry(TARGETS))
            root.version = targets.version = 0  # of what is before the first
            change = Change(Published(Metadata(root), Metadata(targets), {}), self._expiry)
            change.renew()
            for task in tasks:
                change.delegate(task, offline[task].public_key)
            change.sign(offline.values())
            change.require_signed()
            self._write_all(change, online, snapshot_version=1, timestamp_version=1)

    def publish(self, files: Sequence[NewTarget], offline: Mapping[str, Signer], online: Mapping[str, Signer]) -> bool:
        """Add files as signed targets; returns whether anything was new. Repeatable.

        A task that has no role yet gets one, with the signer of its name in `offline`.
        Raises ConflictError where a name is taken by other content: what was released never changes; ConfigError where
        keys are missing.
        """
        with locked(self._lock):
            change = self._publication(files, offline)
            if not change.changed:
                return False
            self._sign_and_write(change, offline, online)
            return True

    def prepare_publication(self, files: Sequence[NewTarget], offline: Mapping[str, Signer]) -> Change:
        """The same without signing: the files are put in place, and nobody is led to them. Raises ConflictError."""
        with locked(self._lock):
            return self._publication(files, offline)

    def change(
        self, edit: Callable[[Change], None], offline: Mapping[str, Signer], online: Mapping[str, Signer]
    ) -> Change:
        """Change roles and keys, sign and publish; the change that was made. Raises what `edit` raises, ConfigError."""
        with locked(self._lock):
            change = Change(self._published(), self._expiry)
            edit(change)
            self._sign_and_write(change, offline, online)
            return change

    def prepare(self, edit: Callable[[Change], None]) -> Change:
        """The same without signing and publishing."""
        change = Change(self._published(), self._expiry)
        edit(change)
        return change

    def publish_signed(
        self, changed: Mapping[str, Offline], offline: Mapping[str, Signer], online: Mapping[str, Signer]
    ) -> Change:
        """Publish metadata that was signed elsewhere, and by `offline` where that is missing still.

        Raises ConflictError where it is not the next version, ConfigError where signatures are missing.
        """
        with locked(self._lock):
            change = Change.signed_elsewhere(self._published(), changed)
            self._sign_and_write(change, offline, online)
            return change

    def renew_online(self, online: Mapping[str, Signer]) -> bool:
        """Sign snapshot and timestamp anew where half of the life of either is over, or where a writer died between
        them and a root with other keys; returns whether it was."""
        with locked(self._lock):
            root, snapshot, timestamp = self._newest_root(), self._snapshot(), self._timestamp()
            holds = _holds(root, SNAPSHOT, snapshot) and _holds(root, TIMESTAMP, timestamp)
            if holds and not self._is_due(snapshot.signed) and not self._is_due(timestamp.signed):
                return False
            again: list[Metadata[Any]] = [timestamp]
            if not holds or self._is_due(snapshot.signed):
                snapshot.signed.version += 1
                snapshot.signed.expires = self._expiry(SNAPSHOT)
                timestamp.signed.snapshot_meta = MetaFile(snapshot.signed.version)
                again.insert(0, snapshot)
            timestamp.signed.version += 1
            timestamp.signed.expires = self._expiry(TIMESTAMP)
            for metadata in again:
                _sign_online(metadata, [root], online)
            for metadata in again:
                self._write(metadata)
            return True

    def targets(self) -> dict[str, TargetFile]:
        """All signed targets by name. Raises TrustError where metadata is missing or malformed."""
        published = self._published()
        signed = (published.targets, *published.tasks.values())
        return {name: target for metadata in signed for name, target in metadata.signed.targets.items()}

    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a role. Raises TrustError where metadata is missing or malformed."""
        return tuple(self._published().tasks)

    def trust_files(self, tasks: Iterable[str]) -> dict[str, bytes]:
        """What provisions the trust of a vehicle with these tasks: `root.json` (the first root) and the current
        `metadata/<role>.json`.

        Raises TrustError where metadata is missing or malformed.
        """
        published = self._published()
        current: dict[str, Metadata[Any]] = {
            ROOT: published.root,
            TARGETS: published.targets,
            SNAPSHOT: self._snapshot(),
            TIMESTAMP: self._timestamp(),
            **{task: published.tasks[task] for task in tasks},
        }
        files = {f"metadata/{role}.json": metadata.to_bytes(_COMPACT) for role, metadata in current.items()}
        return {"root.json": self._read("1.root.json", Root).to_bytes(_COMPACT), **files}

    def status(self) -> list[RoleStatus]:
        """Version, expiry and keys of every role. Raises TrustError where metadata is missing or malformed."""
        published = self._published()
        current: dict[str, Signed] = {
            ROOT: published.root.signed,
            TARGETS: published.targets.signed,
            **{task: metadata.signed for task, metadata in published.tasks.items()},
            SNAPSHOT: self._snapshot().signed,
            TIMESTAMP: self._timestamp().signed,
        }
        roles = Change(published, self._expiry)
        return [
            RoleStatus(name, signed.version, signed.expires, tuple(roles.role(name).keyids), roles.role(name).threshold)
            for name, signed in current.items()
        ]

    def _publication(self, files: Sequence[NewTarget], offline: Mapping[str, Signer]) -> Change:
        change = Change(self._published(), self._expiry)
        for file in files:
            task = file.name.partition("/")[0]
            if not change.delegates(task):
                change.delegate(task, _key_of(task, offline))
            current = change.before.tasks.get(task)
            existing = None if current is None else current.signed.targets.get(file.name)
            target = self._target(file, existing)
            if existing is None:
                change.add_target(target)
            self._put(file, target)
        return change

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

    def _sign_and_write(self, change: Change, offline: Mapping[str, Signer], online: Mapping[str, Signer]) -> None:
        change.sign(offline.values())
        change.require_signed()
        _check_sizes(change)
        versions = self._snapshot().signed.version + 1, self._timestamp().signed.version + 1
        self._write_all(change, online, *versions)

    def _write_all(
        self, change: Change, online: Mapping[str, Signer], snapshot_version: int, timestamp_version: int
    ) -> None:
        """Write a signed change, and the snapshot and timestamp that lead to it. See the module for the order."""
        roots = [change.before.root] if change.before.root.signed.version else []
        if ROOT in change.changed:
            roots.append(change.new_root())
        versions = {
            role: metadata.signed.version
            for role, metadata in {
                TARGETS: change.before.targets,
                **change.before.tasks,
                **change.changed,
            }.items()
            if role != ROOT
        }
        meta = {f"{role}.json": MetaFile(version) for role, version in versions.items()}
        snapshot = Metadata(Snapshot(version=snapshot_version, expires=self._expiry(SNAPSHOT), meta=meta))
        timestamp = Metadata(
            Timestamp(
                version=timestamp_version,
                expires=self._expiry(TIMESTAMP),
                snapshot_meta=MetaFile(snapshot_version),
            )
        )
        _sign_online(snapshot, roots, online)
        _sign_online(timestamp, roots, online)
        for role, metadata in change.changed.items():
            if role != ROOT:
                self._write(metadata, role)
        self._write(snapshot)
        self._write(timestamp)
        if ROOT in change.changed:
            self._write(change.changed[ROOT])

    def _write(self, metadata: Metadata[Any], role: str | None = None) -> None:
        signed = metadata.signed
        name = "timestamp.json" if signed.type == TIMESTAMP else f"{signed.version}.{role or signed.type}.json"
        write_atomic(self._metadata / name, metadata.to_bytes(_COMPACT))

    def _published(self) -> Published:
        meta = self._snapshot().signed.meta
        found = {
            role: self._read(f"{file.version}.{role}.json", Targets)
            for role, file in ((name.removesuffix(".json"), file) for name, file in meta.items())
        }
        return Published(self._newest_root(), found.pop(TARGETS), found)

    def _timestamp(self) -> Metadata[Timestamp]:
        return self._read("timestamp.json", Timestamp)

    def _snapshot(self) -> Metadata[Snapshot]:
        return self._read(f"{self._timestamp().signed.snapshot_meta.version}.snapshot.json", Snapshot)

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
        return self._now().replace(microsecond=0) + LIFETIMES.get(role, LIFETIMES[TARGETS])

    def _is_due(self, signed: Signed) -> bool:
        return signed.expires - self._now() < LIFETIMES[signed.type] * (1 - RENEW_AT)


def _key_of(task: str, offline: Mapping[str, Signer]) -> Key:
    for name, signer in offline.items():
        if role_of(name) == task:
            return signer.public_key
    raise ConfigError(
        f"task {task}: has no role yet, and no offline key of that name is here to give it one: put the folder with "
        f"the offline keys in place, or use 'roadloop keys delegate {task} --public FILE --request FILE'"
    )


def _check_sizes(change: Change) -> None:
    for role, metadata in change.changed.items():
        size_bytes = len(metadata.to_bytes(_COMPACT))
        if size_bytes > MAX_METADATA_BYTES:
            raise ConflictError(
                f"{role}: its metadata would have {size_bytes} bytes, vehicles read {MAX_METADATA_BYTES}: nothing more "
                "can be released under that name"
            )


def _holds(root: Metadata[Root], role: str, metadata: Metadata[Any]) -> bool:
    try:
        root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError:
        return False
    return True


def _sign_online(metadata: Metadata[Any], roots: Sequence[Metadata[Root]], online: Mapping[str, Signer]) -> None:
    """Sign by all keys at hand that any of the roots names. Raises ConfigError where the last one wants more."""
    role = metadata.signed.type
    named = {keyid for root in roots for keyid in root.signed.roles[role].keyids}
    metadata.signatures.clear()
    for signer in online.values():
        if signer.public_key.keyid in named:
            sign_metadata(metadata, signer)
    if not _holds(roots[-1], role, metadata):
        wanted = ", ".join(keyid[:SHORT_ID] for keyid in roots[-1].signed.roles[role].keyids)
        raise ConfigError(f"{role}: the folder of online keys lacks {wanted}, which root names for it")
