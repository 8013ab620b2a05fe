"""A director in memory, whose metadata tests may tamper with: one seat for each vehicle."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from roadloop_models.bundle import MANIFEST_NAME
from roadloop_models.contract.messages import Desired, ReleaseRef

LIFETIME = timedelta(days=1)
ROLES = ("root", "timestamp", "snapshot", "targets")
_COMPACT = JSONSerializer(compact=True)


@dataclass
class Seat:
    """What one vehicle is told."""

    targets: Metadata[Targets] = field(default_factory=lambda: Metadata(Targets(version=1)))
    snapshot: Metadata[Snapshot] = field(default_factory=lambda: Metadata(Snapshot(version=1)))
    timestamp: Metadata[Timestamp] = field(default_factory=lambda: Metadata(Timestamp(version=1)))
    files: dict[str, bytes] = field(default_factory=dict)


class FakeDirector:
    """`seats`: vehicle -> what it is told; `roots`: the chain that all are served. `clock` is what it tells."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.clock: Callable[[], datetime] = lambda: self.now
        self.signers = {role: CryptoSigner.generate_ed25519() for role in ROLES}
        self.seats: dict[str, Seat] = {}
        self.roots: dict[str, bytes] = {}
        self.wrapped_keys: Callable[[str, ReleaseRef], Mapping[str, str]] = lambda vehicle, ref: {}
        self.sign_root()

    def sign_root(self, *, new_keys: bool = False) -> None:
        """The next root; `new_keys` for all roles but itself."""
        if new_keys:
            self.signers |= {role: CryptoSigner.generate_ed25519() for role in ROLES[1:]}
        self.root = Metadata(Root(len(self.roots) + 1, expires=self.now + timedelta(days=365)))
        for role, signer in self.signers.items():
            self.root.signed.add_key(signer.public_key, role)
        self.root.sign(self.signers["root"])
        self.roots[f"director/metadata/{self.root.signed.version}.root.json"] = self.root.to_bytes(_COMPACT)

    def assign(self, vehicle: str, desired: Desired, size_of: Callable[[ReleaseRef], int]) -> None:
        """Name what a vehicle should run."""
        seat = self.seats.setdefault(vehicle, Seat())
        targets = {}
        for slot, ref in desired.slots.items():
            path = f"{ref.task}/{ref.release}/{MANIFEST_NAME}"
            custom: dict[str, object] = {"slots": [slot], "release": ref.release, "version": ref.version}
            if keys := self.wrapped_keys(vehicle, ref):
                custom["keys"] = dict(keys)
            targets[path] = TargetFile(size_of(ref), {"sha256": ref.manifest_sha256}, path, {"custom": custom})
        for slot, ref in desired.shadows.items():
            path = f"{ref.task}/{ref.release}/{MANIFEST_NAME}"
            custom = {"slots": [], "shadow_slots": [slot]}
            targets[path] = TargetFile(size_of(ref), {"sha256": ref.manifest_sha256}, path, {"custom": custom})
        seat.targets.signed.targets = targets
        seat.targets.signed.unrecognized_fields["counter"] = desired.version
        self.publish(vehicle)

    def publish(self, vehicle: str, named: str | None = None, lifetime: timedelta = LIFETIME) -> None:
        """Sign new versions of all three, for `named` where it is not for the vehicle itself."""
        seat = self.seats[vehicle]
        seat.targets.signed.version += 1
        version = seat.snapshot.signed.version = seat.targets.signed.version
        seat.snapshot.signed.meta = {"targets.json": MetaFile(version)}
        seat.timestamp.signed.version += 1
        seat.timestamp.signed.snapshot_meta = MetaFile(version)
        names = {"targets": f"{version}.targets", "snapshot": f"{version}.snapshot", "timestamp": "timestamp"}
        for role, name in names.items():
            metadata: Metadata[Targets] = getattr(seat, role)
            metadata.signed.unrecognized_fields["vehicle"] = named or vehicle
            metadata.signed.expires = self.now + lifetime
            metadata.signatures.clear()
            metadata.sign(self.signers[role])
            seat.files[f"director/metadata/{name}.json"] = metadata.to_bytes(_COMPACT)

    def read(self, vehicle: str, path: str) -> bytes | None:
        """What that vehicle gets."""
        if path.startswith("director/time/"):
            return self.time_statement(vehicle, path.rpartition("/")[2])
        seat = self.seats.get(vehicle, Seat())
        return self.roots.get(path) or seat.files.get(path)

    def time_statement(self, vehicle: str, nonce: str) -> bytes:
        """The time, signed."""
        said = {"_type": "time", "vehicle": vehicle, "nonce": nonce, "time": f"{self.clock():%Y-%m-%dT%H:%M:%SZ}"}
        payload = json.dumps(said)
        signature = self.signers["timestamp"].sign(payload.encode())
        return json.dumps({"payload": payload, "signatures": [signature.to_dict()]}).encode()
