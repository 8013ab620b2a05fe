"""What this vehicle must run, as the director signs it for this vehicle alone.

The director is a TUF repository of which each vehicle sees its own: `director/metadata/...` names no vehicle, the cloud
knows who asks. python-tuf's client would take any vehicle's, and with its version numbers, which may be higher than any
that this one will ever get. So it works in a scratch copy of what is remembered; only what is for this vehicle, is no
older than what was seen, and does not expire before the time that the director tells, is remembered:

    metadata.json   see director_memory.py
    floor.json      see floor.py

Where one of them is damaged the other is what is remembered; the signed files are fetched again.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from securesystemslib.signer import Signature
from tuf.api.exceptions import ExpiredMetadataError
from tuf.api.metadata import Root, Targets
from tuf.ngclient import Updater

from roadloop_agent.update import disk
from roadloop_agent.update.director_memory import FLOOR_NAME, Memory, read_memory, write_memory
from roadloop_agent.update.floor import Floor, raised, read_floor, write_floor
from roadloop_agent.update.glance import METADATA_URL, Fetcher
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.trusted_time import BEGINNING, TrustedTime
from roadloop_agent.update.tuf_client import open_client, provisioned_file
from roadloop_agent.update.tuf_errors import tuf_errors
from roadloop_models.bundle import MANIFEST_NAME
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.typed import from_builtins, from_json

TIME_URL, TARGETS_URL = "director/time/", "director/targets/"
MAX_STATEMENT_BYTES = 4096
_NONCE_BYTES = 16
_TIME_STEP = timedelta(minutes=10)
"""How far the remembered time may lag behind: it is written as seldom as that."""
_ROLES = ("timestamp", "snapshot", "targets")


@dataclass(frozen=True)
class Named:
    """A release that the director names: its manifest, where it may run, and what opens its files."""

    length: int
    sha256: str
    slots: frozenset[str]
    shadow_slots: frozenset[str]
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Assignment:
    """What the director names for this vehicle, by target path; `counter` is the version of the desired state."""

    version: int
    counter: int
    named: Mapping[str, Named]

    def allows(self, slot: str, ref: ReleaseRef, *, shadow: bool = False) -> Named:
        """What is named. Raises MetadataError where the slot (with `shadow`: beside what it runs) may not have it."""
        found = self.named.get(f"{ref.task}/{ref.release}/{MANIFEST_NAME}")
        if found is None or slot not in (found.shadow_slots if shadow else found.slots):
            place = f"the shadow of slot '{slot}'" if shadow else f"slot '{slot}'"
            raise MetadataError(
                f"release {ref.release} of {ref.task}: the director does not name it for {place} of this vehicle "
                f"(assignment {self.version} of desired state {self.counter})"
            )
        if found.sha256 != ref.manifest_sha256:
            raise MetadataError(f"release {ref.release} of {ref.task}: the director names another manifest")
        return found


class _Custom(msgspec.Struct, frozen=True):
    """What the director says of a target."""

    slots: tuple[str, ...] = ()
    shadow_slots: tuple[str, ...] = ()
    keys: dict[str, str] = {}


class _Signature(msgspec.Struct, frozen=True):
    keyid: str
    sig: str


class _Signed(msgspec.Struct, frozen=True):
    """A statement: the signatures are of the bytes of `payload`."""

    payload: str
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(max_length=8)]


class _Statement(msgspec.Struct, frozen=True, kw_only=True):
    kind: Literal["time"] = msgspec.field(name="_type")
    vehicle: str
    nonce: str
    time: datetime


class Director:
    """See the module. `directory`: the client's memory; `provisioned`: `trust/` of the provisioning folder."""

    def __init__(
        self,
        directory: Path,
        provisioned: Path,
        vehicle: str,
        fetcher: Fetcher,
        time: TrustedTime,
        *,
        nonce: Callable[[], str] = lambda: secrets.token_hex(_NONCE_BYTES),
    ) -> None:
        self._directory = directory
        self._provisioned = provisioned
        self._vehicle = vehicle
        self._fetcher = fetcher
        self._time = time
        self._nonce = nonce

    def refresh(self) -> Assignment:
        """Ask what is new; two small files where nothing is.

        Raises MetadataError where what came is not signed, not newer, expired, or not for this vehicle,
        RetryLaterError where the director does not answer, DiskFullError. Then what was remembered stays as it was.
        """
        with disk.disk_errors(self._directory):
            floor = read_floor(self._directory / FLOOR_NAME) or Floor({}, BEGINNING)
            memory = read_memory(self._directory)
        now = self._time.now(floor.time)
        scratch = self._directory / "scratch"
        try:
            with tuf_errors(MetadataError, now), disk.disk_errors(self._directory):
                _fill(scratch, memory)
                root = provisioned_file(self._provisioned / "director" / "root.json")
                updater = open_client(scratch, METADATA_URL, TARGETS_URL, self._fetcher, root=root, now=now)
                updater.refresh()
            self._ask_time(updater, floor)
            assignment = self._check(updater, floor)
            with disk.disk_errors(self._directory):
                self._remember(updater, scratch, memory, floor, assignment)
        finally:
            with disk.disk_errors(self._directory):
                disk.remove_tree(scratch)
        return assignment

    def _ask_time(self, updater: Updater, floor: Floor) -> None:
        """Where the time is in doubt, have it told, and see whether all of this still holds then."""
        if not self._time.must_ask(floor.time):
            return
        trusted = updater._trusted_set
        nonce = self._nonce()
        with tuf_errors(MetadataError, self._time.now(floor.time)):
            content = self._fetcher.download_bytes(f"{TIME_URL}{nonce}", MAX_STATEMENT_BYTES)
            time = self._verified_time(trusted.root, content, nonce)
        if time >= trusted.root.expires:
            raise MetadataError(f"the director says that it is {time}, and its root has expired by then")
        self._time.told(time)
        now = self._time.now(floor.time)
        with tuf_errors(MetadataError, now):
            for role in ("root", *_ROLES):
                if trusted[role].is_expired(now):
                    raise ExpiredMetadataError(f"{role} of the director is expired")

    def _verified_time(self, root: Root, content: bytes, nonce: str) -> datetime:
        try:
            signed = from_json(content, _Signed)
            signatures = {each.keyid: Signature(each.keyid, each.sig) for each in signed.signatures}
            payload = signed.payload.encode()
            root.verify_delegate("timestamp", payload, signatures)
            said = from_json(payload, _Statement)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise MetadataError(f"the director's word on the time: {error}") from error
        if (said.vehicle, said.nonce) != (self._vehicle, nonce):
            raise MetadataError("the director's word on the time answers another question: replayed")
        return said.time.astimezone(UTC)

    def _check(self, updater: Updater, floor: Floor) -> Assignment:
        trusted = updater._trusted_set
        for role in _ROLES:
            named = trusted[role].unrecognized_fields.get("vehicle")
            if named != self._vehicle:
                raise MetadataError(f"{role} of the director is for vehicle {named!r}, this is {self._vehicle!r}")
        counter = trusted.targets.unrecognized_fields.get("counter")
        if not isinstance(counter, int) or isinstance(counter, bool):
            raise MetadataError("targets of the director name no counter")
        least = raised(floor, trusted.root, trusted.timestamp, trusted.snapshot, floor.time).counter
        if counter < least:
            raise MetadataError(f"assignment {counter} is offered, {least} was seen before: replayed")
        return Assignment(trusted.targets.version, counter, _named(trusted.targets))

    # What is remembered.

    def _remember(
        self, updater: Updater, scratch: Path, memory: Memory | None, floor: Floor, assignment: Assignment
    ) -> None:
        """The signed files first: a floor without them would refuse what they lead to."""
        after = _read(scratch)
        if after != memory:
            write_memory(self._directory, after)
        trusted = updater._trusted_set
        clock = self._time.clock()
        time = clock if clock - floor.time > _TIME_STEP else floor.time
        risen = raised(floor, trusted.root, trusted.timestamp, trusted.snapshot, time)
        risen = msgspec.structs.replace(risen, counter=assignment.counter)
        if risen != floor:
            write_floor(self._directory / FLOOR_NAME, risen)


def _fill(scratch: Path, memory: Memory | None) -> None:
    """A new scratch copy of what is remembered, as python-tuf's client lays its files out."""
    disk.remove_tree(scratch)
    (scratch / "root_history").mkdir(parents=True)
    if memory is None:
        return
    for version, root in memory.roots.items():
        (scratch / "root_history" / f"{version}.root.json").write_text(root, encoding="utf-8")
    for role in _ROLES:
        (scratch / f"{role}.json").write_text(getattr(memory, role), encoding="utf-8")


def _read(scratch: Path) -> Memory:
    history = scratch / "root_history"
    versions = sorted(int(path.name.partition(".")[0]) for path in history.iterdir())
    roots = {version: (history / f"{version}.root.json").read_text(encoding="utf-8") for version in versions[1:]}
    return Memory(roots, *((scratch / f"{role}.json").read_text(encoding="utf-8") for role in _ROLES))


def _named(targets: Targets) -> dict[str, Named]:
    named = {}
    for path, target in targets.targets.items():
        try:
            custom = from_builtins(target.custom or {}, _Custom)
        except msgspec.ValidationError as error:
            raise MetadataError(f"targets of the director: {path}: {error}") from error
        named[path] = Named(
            target.length,
            target.hashes.get("sha256", ""),
            frozenset(custom.slots),
            frozenset(custom.shadow_slots),
            custom.keys,
        )
    return named
