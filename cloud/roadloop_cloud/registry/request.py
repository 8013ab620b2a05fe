"""What is to be signed, as a file that travels to the machine that has the keys and back.

It holds the metadata before and after the change. Whoever signs is shown the difference, never a description made by
the machine that asks: and a difference only to what one of the signer's own keys signed before, else the whole.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Role, Root, Targets

from roadloop_cloud.registry.change import IMAGES, Change, Offline, Published, RepositoryName
from roadloop_cloud.registry.keys import ROOT, SHORT_ID, TARGETS
from roadloop_models.errors import BadInputError, TrustError
from roadloop_models.typed import from_json

MAX_REQUEST_BYTES = 64 * 1024 * 1024
_FORMAT = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    roadloop_request: int
    repository: RepositoryName
    before: dict[str, msgspec.Raw]
    changed: dict[str, msgspec.Raw]


@dataclass(frozen=True)
class Shown:
    """One role of a request as a person sees it before signing."""

    role: str
    compared: bool
    """Whether `lines` are the difference to what one's own key signed before; else they are all there is."""
    lines: tuple[str, ...]


def encode_request(change: Change) -> bytes:
    """A change, with the signatures that it has so far."""
    before: dict[str, Offline] = {ROOT: change.before.root, TARGETS: change.before.targets}
    before |= {task: metadata for task, metadata in change.before.tasks.items() if task in change.changed}
    file = _File(_FORMAT, change.of, _raw(before), _raw(change.changed))
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def decode_request(content: bytes, where: str) -> Change:
    """Raises BadInputError naming `where` what is no request. Nothing in it is believed yet."""
    if len(content) > MAX_REQUEST_BYTES:
        raise BadInputError(f"{where}: {len(content)} bytes, at most {MAX_REQUEST_BYTES} are read")
    try:
        file = from_json(content, _File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError(f"{where}: no request for signatures: {error}") from error
    if file.roadloop_request != _FORMAT:
        raise BadInputError(f"{where}: of format {file.roadloop_request}, this version reads {_FORMAT}")
    before = {role: _metadata(role, bytes(raw), where) for role, raw in file.before.items()}
    changed = {role: _metadata(role, bytes(raw), where) for role, raw in file.changed.items()}
    root, targets = before.pop(ROOT, None), before.pop(TARGETS, None)
    if root is None or targets is None:
        raise BadInputError(f"{where}: does not say what {ROOT} and {TARGETS} were before")
    published = Published(root, targets, before)  # type: ignore[arg-type]  # _metadata checked their kinds
    return Change.signed_elsewhere(published, changed, file.repository)


def show(change: Change, signers: Iterable[Signer]) -> list[Shown]:
    """What one signs, role by role, of those that these keys are asked to sign."""
    own = {signer.public_key.keyid: signer.public_key for signer in signers}
    shown = []
    for role, metadata in change.changed.items():
        if not change.keyids(role) & own.keys():
            continue
        before = change.before.find(role)
        known = before is not None and any(_signed_by(before, key) for key in own.values())
        named = role if change.of == IMAGES else f"{change.of}-{role}"
        shown.append(Shown(named, known, tuple(differences(before if known else None, metadata))))
    return shown


def differences(before: Offline | None, after: Offline) -> list[str]:
    """Versions, keys and files that differ, one a line; all of them where there is no `before`."""
    old, new = None if before is None else before.signed, after.signed
    lines = [
        f"version {'-' if old is None else old.version} -> {new.version}, until {new.expires:%Y-%m-%d %H:%M} UTC",
        *_compare(_roles(old), _roles(new)),
    ]
    if isinstance(new, Targets):
        lines += _compare(_files(old), _files(new))
    if not new.unrecognized_fields:
        return lines
    return [*lines, f"unknown fields: {', '.join(sorted(new.unrecognized_fields))}"]


def _signed_by(metadata: Offline, key: Key) -> bool:
    signature = metadata.signatures.get(key.keyid)
    if signature is None:
        return False
    try:
        key.verify_signature(signature, metadata.signed_bytes)
    except UnverifiedSignatureError:
        return False
    return True


def _compare(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    gone = [f"- {name}: {old[name]}" for name in old if old[name] != new.get(name)]
    come = [f"+ {name}: {new[name]}" for name in new if new[name] != old.get(name)]
    return gone + come


def _roles(signed: Root | Targets | None) -> dict[str, str]:
    if isinstance(signed, Root):
        return {f"role {name}": _keys(role) for name, role in signed.roles.items()}
    if signed is None or signed.delegations is None:
        return {}
    delegated = (signed.delegations.roles or {}).items()
    return {f"role {name}": f"{_keys(role)}, signs {' '.join(role.paths or ())}" for name, role in delegated}


def _keys(role: Role) -> str:
    return f"{role.threshold} of {', '.join(sorted(keyid[:SHORT_ID] for keyid in role.keyids))}"


def _files(signed: Root | Targets | None) -> dict[str, str]:
    if not isinstance(signed, Targets):
        return {}
    return {
        f"file {name}": f"{target.length} bytes, SHA-256 {target.hashes.get('sha256')}, {target.custom or {}}"
        for name, target in signed.targets.items()
    }


def _raw(metadata: Mapping[str, Offline]) -> dict[str, msgspec.Raw]:
    return {role: msgspec.Raw(found.to_bytes()) for role, found in metadata.items()}


def _metadata(role: str, content: bytes, where: str) -> Offline:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(content)
    except (RepositoryError, RecursionError) as error:
        raise BadInputError(f"{where}: {role}: {error}") from error
    if not isinstance(metadata.signed, Root if role == ROOT else Targets):
        raise TrustError(f"{where}: {role} holds metadata of role {metadata.signed.type}; do not sign it")
    return metadata
