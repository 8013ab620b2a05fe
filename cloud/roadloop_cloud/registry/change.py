"""The next versions of what offline keys sign: metadata in, metadata out, no file and no clock.

Root is signed by keys that the root before it and it itself name, targets by those that root names, each task's role by
those that targets names. While keys change, old and new ones both sign where both are at hand: what is published then
holds under the old root and under the new one, and there is no moment between in which a vehicle would believe neither.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Signed, TargetFile, Targets

from roadloop_cloud.registry.keys import OFFLINE_ROLES, ONLINE_ROLES, ROOT, SHORT_ID, TARGETS
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError

_PATHS = ("*/*", "*/*/*", "*/*/*/*")
"""What a task's role may sign below `<task>/`: files of a release, in folders of it at most two deep."""

RepositoryName: TypeAlias = Literal["images", "director"]
"""Which of the two repositories a change is of."""
IMAGES: RepositoryName = "images"
DIRECTOR: RepositoryName = "director"
SignedT = TypeVar("SignedT", Root, Targets)
Offline: TypeAlias = Metadata[Root] | Metadata[Targets]


@dataclass(frozen=True)
class Published:
    """The metadata that offline keys signed, as it is published."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    tasks: Mapping[str, Metadata[Targets]]

    def find(self, role: str) -> Offline | None:
        """The metadata of a role; None where there is no such role yet."""
        if role == ROOT:
            return self.root
        return self.targets if role == TARGETS else self.tasks.get(role)


@dataclass(frozen=True)
class Unsigned:
    """A role that lacks `count` signatures by any of the keys."""

    role: str
    count: int
    keyids: tuple[str, ...]

    def __str__(self) -> str:
        keys = ", ".join(keyid[:SHORT_ID] for keyid in self.keyids)
        return f"{self.role} lacks {self.count} signature{'s' if self.count > 1 else ''} by {keys}"


class Change:
    """What changes on `before`. `expiry` gives the moment until when a role's new metadata holds."""

    def __init__(self, before: Published, expiry: Callable[[str], datetime], of: RepositoryName = IMAGES) -> None:
        self.before = before
        self.of = of
        self._expiry = expiry
        self.changed: dict[str, Offline] = {}

    @classmethod
    def signed_elsewhere(
        cls, before: Published, changed: Mapping[str, Offline], of: RepositoryName = IMAGES
    ) -> "Change":
        """A change that was made and signed before. Raises ConflictError where it is not the next after `before`."""
        for role, metadata in changed.items():
            current = before.find(role)
            expected = 1 if current is None else current.signed.version + 1
            if metadata.signed.version != expected:
                raise ConflictError(
                    f"{role}: version {metadata.signed.version} was signed, the next one is {expected}: "
                    "something else was published meanwhile (or this already was); make the request again"
                )
        made = cls(before, lambda role: changed[role].signed.expires, of)
        made.changed.update(changed)
        return made

    # What may be changed.

    def delegate(self, task: str, key: Key) -> None:
        """Let a new task be signed by a key of its own. Raises BadInputError where its name is that of a role."""
        if task in (*OFFLINE_ROLES, *ONLINE_ROLES):
            raise BadInputError(f"task {task}: a role of the repository has that name; choose another")
        targets = self._edit_targets()
        if targets.delegations is None:
            targets.delegations = Delegations({}, {})
        assert targets.delegations.roles is not None
        paths = [f"{task}/{pattern}" for pattern in _PATHS]
        targets.delegations.roles[task] = DelegatedRole(task, [], 1, terminating=True, paths=paths)
        targets.add_key(key, task)
        self.changed[task] = Metadata(Targets(version=1, expires=self._expiry(task)))

    def add_target(self, target: TargetFile) -> None:
        """Sign a file by its task's role. Raises BadInputError where that may not sign such a name."""
        task = target.path.partition("/")[0]
        role = self._delegator(task).get_delegated_role(task)
        if not isinstance(role, DelegatedRole) or not role.is_delegated_path(target.path):
            raise BadInputError(f"target {target.path}: lies deeper in folders than role {task} may sign")
        self._edit_task(task).targets[target.path] = target

    def renew(self) -> None:
        """Begin all lives again."""
        self._edit_root()
        self._edit_targets()
        for task in self.before.tasks:
            self._edit_task(task)

    def add_key(self, role: str, key: Key) -> None:
        """Let a key sign for a role. Raises NotFoundError."""
        self._edit_delegator(role).add_key(key, role)
        self._edit_if_offline(role)

    def remove_key(self, role: str, keyid: str) -> None:
        """Let a key sign no more for a role. Raises NotFoundError, BadInputError where too few keys would be left."""
        found = self.role(role)
        if keyid not in found.keyids:
            raise NotFoundError(f"{role}: no key {keyid[:SHORT_ID]}; 'roadloop keys show' lists them")
        if len(found.keyids) <= found.threshold:
            raise BadInputError(f"{role}: needs {found.threshold} of its {len(found.keyids)} keys; add another first")
        self._edit_delegator(role).revoke_key(keyid, role)
        self._edit_if_offline(role)

    def set_threshold(self, role: str, threshold: int) -> None:
        """How many keys must sign for a role. Raises NotFoundError, BadInputError where it has fewer."""
        if not 1 <= threshold <= len(self.role(role).keyids):
            raise BadInputError(f"{role}: has {len(self.role(role).keyids)} keys, {threshold} cannot be asked for")
        self._edit_delegator(role).get_delegated_role(role).threshold = threshold
        self._edit_if_offline(role)

    # What it comes to.

    def role(self, role: str) -> Role:
        """Keys and threshold of a role, after the change. Raises NotFoundError."""
        try:
            return self._delegator(role).get_delegated_role(role)
        except ValueError as error:
            known = ", ".join((*OFFLINE_ROLES, *ONLINE_ROLES, *self.before.tasks))
            raise NotFoundError(f"no role {role}; there are {known}") from error

    def new_root(self) -> Metadata[Root]:
        """Root after the change."""
        metadata = self._root_metadata()
        assert isinstance(metadata.signed, Root)
        return metadata

    def delegates(self, task: str) -> bool:
        """Whether a task has a role, after the change."""
        delegations = self._targets().delegations
        return delegations is not None and task in (delegations.roles or {})

    def keyids(self, role: str) -> set[str]:
        """The keys that sign a role's next metadata, or would have to before the change."""
        found: set[str] = set()
        for delegator in self._delegators(role):
            found.update(delegator.get_delegated_role(role).keyids)
        return found

    def removed_keys(self) -> set[str]:
        """Keys that some role named before and none names after."""
        return _all_keyids(self.before.root, self.before.targets) - _all_keyids(
            self._root_metadata(), self._target_md()
        )

    def sign(self, signers: Iterable[Signer]) -> list[tuple[str, str]]:
        """Add the signatures that these keys can give; (role, key id) of those added. Raises ConfigError."""
        added = []
        for signer in signers:
            keyid = signer.public_key.keyid
            for role, metadata in self.changed.items():
                if keyid in self.keyids(role) and keyid not in metadata.signatures:
                    sign_metadata(metadata, signer)
                    added.append((role, keyid))
        return added

    def unsigned(self) -> list[Unsigned]:
        """What has to be signed still. Raises NotFoundError where nobody delegates a role."""
        found = []
        for role, metadata in self.changed.items():
            for delegator in self._deciding(role):
                result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
                if not result:
                    found.append(Unsigned(role, result.missing, tuple(result.unsigned)))
        return found

    def require_signed(self) -> None:
        """Raises ConfigError naming the keys that are missing."""
        lacking = self.unsigned()
        if lacking:
            raise ConfigError(
                f"{'; '.join(map(str, lacking))}: put the folder with the offline keys in place, or write with "
                "--request what is to be signed elsewhere"
            )

    def _deciding(self, role: str) -> list[Root | Targets]:
        """Those whose threshold must be met: root's both, since a vehicle follows root by root."""
        if role == ROOT:
            return [self.before.root.signed, self._root()]
        self.role(role)
        return [self._delegator(role)]

    def _delegators(self, role: str) -> list[Root | Targets]:
        """Before and after, where they name the role."""
        before: Root | Targets = self.before.targets.signed if self._is_task(role) else self.before.root.signed
        try:
            before.get_delegated_role(role)
        except ValueError:
            return [self._delegator(role)]
        return [before, self._delegator(role)]

    def _is_task(self, role: str) -> bool:
        return role not in (*OFFLINE_ROLES, *ONLINE_ROLES)

    def _delegator(self, role: str) -> Root | Targets:
        return self._targets() if self._is_task(role) else self._root()

    def _edit_delegator(self, role: str) -> Root | Targets:
        self.role(role)
        return self._edit_targets() if self._is_task(role) else self._edit_root()

    def _edit_if_offline(self, role: str) -> None:
        """Metadata that other keys vouch for from now on is signed anew; the online roles always are."""
        if role == TARGETS:
            self._edit_targets()
        elif self._is_task(role):
            self._edit_task(role)

    def _root_metadata(self) -> Offline:
        return self.changed.get(ROOT, self.before.root)

    def _target_md(self) -> Offline:
        return self.changed.get(TARGETS, self.before.targets)

    def _root(self) -> Root:
        return _as(Root, self._root_metadata().signed)

    def _targets(self) -> Targets:
        return _as(Targets, self._target_md().signed)

    def _edit_root(self) -> Root:
        return self._next(ROOT, self.before.root.signed)

    def _edit_targets(self) -> Targets:
        return self._next(TARGETS, self.before.targets.signed)

    def _edit_task(self, task: str) -> Targets:
        if task in self.changed:
            return _as(Targets, self.changed[task].signed)
        return self._next(task, self.before.tasks[task].signed)

    def _next(self, role: str, signed: SignedT) -> SignedT:
        if role not in self.changed:
            made = copy.deepcopy(signed)
            made.version += 1
            made.expires = self._expiry(role)
            self.changed[role] = Metadata(made)
        return _as(type(signed), self.changed[role].signed)


def sign_metadata(metadata: Metadata[Any], signer: Signer) -> None:
    """Add one signature. Raises ConfigError where a key that is at hand cannot be used, such as by a wrong PIN."""
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        raise ConfigError(str(error)) from error


def _as(kind: type[SignedT], signed: Signed) -> SignedT:
    assert isinstance(signed, kind)
    return signed


def _all_keyids(root: Offline, targets: Offline) -> set[str]:
    found = {keyid for role in _as(Root, root.signed).roles.values() for keyid in role.keyids}
    delegations = _as(Targets, targets.signed).delegations
    for delegated in () if delegations is None else (delegations.roles or {}).values():
        found.update(delegated.keyids)
    return found
