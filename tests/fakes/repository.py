"""The cloud's side of an update: a python-tuf image repository in memory, and the server of its blocks."""

import hashlib
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from roadloop_agent.update.store import ProvisionedReleases
from roadloop_models.bundle import MANIFEST_NAME, Bundle
from roadloop_models.bundle.delta import PatchKind, make_patch, patch_name
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import Desired, FetchRequest, FileBlock, ReleaseRef
from tests.fakes.director import FakeDirector
from tests.fakes.opaque_bundles import release_ref

VAN = "van-1"
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
_LIFETIME = {
    "root": timedelta(days=365),
    "targets": timedelta(days=90),
    "snapshot": timedelta(days=7),
    "timestamp": timedelta(days=1),
}


class Repository:
    """`files`: path in the repository -> content, as the server has it. Tests tamper there."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.files: dict[str, bytes] = {}
        self.director = FakeDirector(now)
        self.signers = {role: CryptoSigner.generate_ed25519() for role in _LIFETIME}
        self.root = Metadata(Root(version=1, consistent_snapshot=True, expires=self._expires("root")))
        for role, signer in self.signers.items():
            self.root.signed.add_key(signer.public_key, role)
        self.targets = Metadata(Targets())
        self.snapshot = Metadata(Snapshot())
        self.timestamp = Metadata(Timestamp())
        self._publish_root()
        self.publish()

    def add(self, bundle: Bundle, release: int) -> ReleaseRef:
        """Sign a bundle as that release and publish it."""
        ref = release_ref(bundle, release)
        manifest = bundle.manifest
        paths = [MANIFEST_NAME, *(entry.path for entry in manifest.files if entry.path != manifest.training_weights)]
        for path in paths:
            content = (bundle.directory / path).read_bytes()
            target = TargetFile.from_data(f"{ref.task}/{release}/{path}", content, ["sha256"])
            if path == MANIFEST_NAME:
                custom = {"task": ref.task, "release": release, "version": ref.version}
                target.unrecognized_fields["custom"] = custom
            self.targets.signed.targets[target.path] = target
            self.files[self.url(target.path)] = content
        self.publish()
        return ref

    def add_patch(self, ref: ReleaseRef, path: str, base: Bundle, kind: PatchKind, content: bytes | None = None) -> str:
        """Sign a patch that makes a file of the release from the one in its place in `base`; its target name.

        `content` is in its place, signed and all.
        """
        made = self.targets.signed.targets[f"{ref.task}/{ref.release}/{path}"]
        old = base.manifest.file_entry(path)
        if content is None:
            content = make_patch(kind, (base.directory / path).read_bytes(), self.files[self.url(made.path)])
        name = f"{ref.task}/{ref.release}/{patch_name(path, old.sha256)}"
        target = TargetFile.from_data(name, content, ["sha256"])
        target.unrecognized_fields["custom"] = {"patch": kind, "from": old.sha256, "to": made.hashes["sha256"]}
        self.targets.signed.targets[name] = target
        self.files[self.url(name)] = content
        self.publish()
        return name

    def assign(self, vehicle: str, desired: Desired) -> None:
        """Have the director name what a vehicle should run."""
        self.director.assign(vehicle, desired, self._manifest_bytes)

    def read(self, vehicle: str, path: str) -> bytes | None:
        """What a vehicle gets for a path."""
        return self.director.read(vehicle, path) if path.startswith("director/") else self.files.get(path)

    def url(self, target: str) -> str:
        """Where a target lies: its name has its hash before it."""
        directory, _, name = target.rpartition("/")
        return f"targets/{directory}/{self.targets.signed.targets[target].hashes['sha256']}.{name}"

    def publish(self, lifetime: timedelta | None = None) -> None:
        """Sign new versions of targets, snapshot and timestamp."""
        self.targets.signed.version += 1
        self.targets.signed.expires = self._expires("targets")
        self._write("targets", f"{self.targets.signed.version}.targets", self.targets)
        self.snapshot.signed.meta = {"targets.json": MetaFile(self.targets.signed.version)}
        self.renew(lifetime)

    def renew(self, lifetime: timedelta | None = None) -> None:
        """Sign new versions of snapshot and timestamp."""
        self.snapshot.signed.version += 1
        self.snapshot.signed.expires = self._expires("snapshot")
        self._write("snapshot", f"{self.snapshot.signed.version}.snapshot", self.snapshot)
        self.timestamp.signed.version += 1
        self.timestamp.signed.expires = self.now + lifetime if lifetime else self._expires("timestamp")
        self.timestamp.signed.snapshot_meta = MetaFile(self.snapshot.signed.version)
        self._write("timestamp", "timestamp", self.timestamp)

    def rotate_root(self) -> None:
        """A new root with a new targets key."""
        old = self.signers["targets"]
        self.signers["targets"] = CryptoSigner.generate_ed25519()
        self.root.signed.revoke_key(old.public_key.keyid, "targets")
        self.root.signed.add_key(self.signers["targets"].public_key, "targets")
        self.root.signed.version += 1
        self._publish_root()
        self.publish()

    def provision(self, directory: Path, releases: dict[str, tuple[ReleaseRef, Path]]) -> None:
        """Write trust/, releases.json and releases/ of a provisioning folder: slot -> (release, its bundle)."""
        metadata = directory / "trust" / "metadata"
        metadata.mkdir(parents=True)
        (directory / "trust" / "root.json").write_bytes(self.files["metadata/1.root.json"])
        current = {
            "root": f"{self.root.signed.version}.root",
            "targets": f"{self.targets.signed.version}.targets",
            "snapshot": f"{self.snapshot.signed.version}.snapshot",
            "timestamp": "timestamp",
        }
        (directory / "trust" / "director").mkdir()
        (directory / "trust" / "director" / "root.json").write_bytes(self.director.root.to_bytes())
        for role, name in current.items():
            (metadata / f"{role}.json").write_bytes(self.files[f"metadata/{name}.json"])
        refs = {slot: ref for slot, (ref, _) in releases.items()}
        (directory / "releases.json").write_bytes(msgspec.json.encode(ProvisionedReleases(refs)))
        for ref, bundle in releases.values():
            target = directory / "releases" / ref.manifest_sha256
            target.mkdir(parents=True, exist_ok=True)
            for path in bundle.iterdir():
                (target / path.name).write_bytes(path.read_bytes())

    def _manifest_bytes(self, ref: ReleaseRef) -> int:
        """1 for a release that nobody signed."""
        target = self.targets.signed.targets.get(f"{ref.task}/{ref.release}/{MANIFEST_NAME}")
        return 1 if target is None else target.length

    def _expires(self, role: str) -> datetime:
        return self.now + _LIFETIME[role]

    def _publish_root(self) -> None:
        self._write("root", f"{self.root.signed.version}.root", self.root)

    def _write(
        self,
        role: str,
        name: str,
        metadata: Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp],
    ) -> None:
        metadata.signatures.clear()
        metadata.sign(self.signers[role])
        self.files[f"metadata/{name}.json"] = metadata.to_bytes()


Deliver = Callable[[str, int, FileBlock], None]


@dataclass
class BlockServer:
    """Answers requests as the fleet service does. `served` counts the blocks of each path that were sent.

    `loses` decides which blocks get lost on the way; `announces` what size is told of a file.
    """

    repository: Repository
    deliver: Deliver
    vehicle: str = VAN
    loses: Callable[[str, int], bool] = lambda path, n: False
    announces: Callable[[str, int], int] = lambda path, size_bytes: size_bytes
    requests: list[FetchRequest] = field(default_factory=list)
    served: dict[str, list[int]] = field(default_factory=dict)

    def __call__(self, request: FetchRequest) -> None:
        """Send what is asked for, at once."""
        self.requests.append(request)
        for sha256, n, block in answer(self.repository.read(self.vehicle, request.path), request):
            size_bytes = self.announces(request.path, block.size_bytes)
            if not self.loses(request.path, n):
                self.served.setdefault(request.path, []).append(n)
                self.deliver(sha256, n, msgspec.structs.replace(block, size_bytes=size_bytes))

    def blocks(self, prefix: str) -> int:
        """How many blocks of the files below a path were sent."""
        return sum(len(numbers) for path, numbers in self.served.items() if path.startswith(prefix))


def answer(content: bytes | None, request: FetchRequest) -> Iterable[tuple[str, int, FileBlock]]:
    """The messages that answer a request: SHA-256 of the content, block number, block."""
    if content is None:
        yield _EMPTY_SHA256, 0, FileBlock(path=request.path, size_bytes=0, crc32=0, data=b"", missing=True)
        return
    sha256 = hashlib.sha256(content).hexdigest()
    for first, last in request.blocks:
        for n in range(first, last + 1):
            data = content[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES]
            if data:
                yield (
                    sha256,
                    n,
                    FileBlock(path=request.path, size_bytes=len(content), crc32=zlib.crc32(data), data=data),
                )


def utc_now() -> datetime:
    """Now, in whole seconds: TUF metadata have no fractions."""
    return datetime.now(UTC).replace(microsecond=0)
