"""What is done with keys, by a person: looked at, made, changed, taken away, and used on another machine.

Each change is published at once where the keys that have to sign are at hand. Otherwise it is written as a request, is
signed where those keys are (`sign_request`), as often as there are machines or people to ask, and is then imported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec
from securesystemslib.signer import Signer
from tuf.api.metadata import Role

from roadloop_cloud.files import write_atomic
from roadloop_cloud.registry.change import IMAGES, Change, Offline, RepositoryName, Unsigned
from roadloop_cloud.registry.keys import ONLINE_ROLES, KeyFolder, PublicKey
from roadloop_cloud.registry.repository import LIFETIMES, RoleStatus
from roadloop_cloud.registry.request import MAX_REQUEST_BYTES, Shown, decode_request, encode_request, show
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError, RoadloopError
from roadloop_models.typed import from_json

WARN_AT = 0.75
"""Share of its life after which a role that a person must renew is spoken of."""
MAX_PUBLIC_KEY_BYTES = 64 * 1024


@dataclass(frozen=True)
class KeyStatus:
    """A key that a role names."""

    keyid: str
    file: str | None
    """Where it is in the workspace; None where it is kept elsewhere."""


@dataclass(frozen=True)
class RoleKeys:
    """A role as a person looks at it."""

    role: str
    version: int | None
    """None, like the next two, where a role signs for each vehicle by itself."""
    expires: datetime | None
    days_left: float | None
    warning: str | None
    threshold: int
    keys: tuple[KeyStatus, ...]


class Repository(Protocol):
    """What ceremonies need of a repository; see ImageRepository and DirectorRoots."""

    def prepare(self, edit: Callable[[Change], None]) -> Change:
        """A change that is neither signed nor published."""

    def change(
        self, edit: Callable[[Change], None], offline: Mapping[str, Signer], online: Mapping[str, Signer], /
    ) -> Change:
        """Change roles and keys, sign and publish."""

    def publish_signed(
        self, changed: Mapping[str, Offline], offline: Mapping[str, Signer], online: Mapping[str, Signer], /
    ) -> Change:
        """Publish what was signed elsewhere."""

    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a role."""

    def status(self) -> list[RoleStatus]:
        """Version, expiry and keys of every role."""


class Ceremonies:
    """Application service on the keys of the image repository."""

    def __init__(
        self,
        repository: Repository,
        offline: KeyFolder,
        online: KeyFolder,
        now: Callable[[], datetime],
        *,
        of: RepositoryName = IMAGES,
        prefix: str = "",
        option: str = "--offline",
        online_roles: tuple[str, ...] = ONLINE_ROLES,
    ) -> None:
        """`now` is wall time; `prefix` is what the names of key files have before the role, `option` that of
        `roadloop keys renew`. Keys are read when they are needed."""
        self._repository = repository
        self._of = of
        self._prefix = prefix
        self._option = option
        self._online_roles = online_roles
        self._offline = offline
        self._online = online
        self._now = now

    def show(self) -> list[RoleKeys]:
        """Every role, with warnings of what expires soon. Raises TrustError where metadata is missing or malformed."""
        names = self._names()
        shown = []
        for status in self._repository.status():
            left = status.expires - self._now()
            shown.append(
                RoleKeys(
                    status.role,
                    status.version,
                    status.expires,
                    left.total_seconds() / 86_400,
                    expiry_warning(status.role, status.expires, self._now(), self._option),
                    status.threshold,
                    tuple(KeyStatus(keyid, names.get(keyid)) for keyid in status.key_ids),
                )
            )
        return shown

    def warnings(self) -> list[str]:
        """What a person has to renew soon, or should have. Raises TrustError."""
        found = []
        for status in self._repository.status():
            warning = expiry_warning(status.role, status.expires, self._now(), self._option)
            if warning is not None:
                found.append(f"{self._prefix}{status.role}, until {status.expires:%Y-%m-%d %H:%M} UTC: {warning}")
        return found

    def delegate(self, task: str, public: PublicKey | None, request: Path | None = None) -> Change:
        """Give a new task its role; publishing does it by itself where the keys are at hand.

        Raises ConflictError where it has one.
        """
        if task in self._repository.tasks():
            raise ConflictError(f"task {task} has its role already; 'roadloop keys rotate {task}' gives it another key")

        def edit(change: Change, new: PublicKey | None) -> None:
            assert new is not None
            change.delegate(task, new.key())

        return self._make(edit, request, self._new_key(task, public, request), made_here=public is None)

    def rotate(self, role: str, public: PublicKey | None, request: Path | None = None) -> Change:
        """Replace all keys of a role by a new one, which is made here where `public` is None."""
        named = self._role(role)
        if named.threshold > 1:
            raise BadInputError(f"{role}: {named.threshold} keys must sign for it: add and revoke them one by one")
        old = tuple(named.keyids)

        def edit(change: Change, new: PublicKey | None) -> None:
            assert new is not None
            change.add_key(role, new.key())
            for keyid in old:
                change.remove_key(role, keyid)

        return self._make(edit, request, self._new_key(role, public, request), made_here=public is None)

    def add(self, role: str, public: PublicKey | None, threshold: int | None, request: Path | None = None) -> Change:
        """Let one more key sign for a role, and say how many must."""
        self._role(role)

        def edit(change: Change, new: PublicKey | None) -> None:
            assert new is not None
            change.add_key(role, new.key())
            if threshold is not None:
                change.set_threshold(role, threshold)

        return self._make(edit, request, self._new_key(role, public, request), made_here=public is None)

    def revoke(self, role: str, keyid: str, public: PublicKey | None, request: Path | None = None) -> Change:
        """Take one key away from a role; a new one takes its place where the role would have too few.

        `keyid` may be shortened. Raises NotFoundError where no key, or more than one, begins like that.
        """
        named = self._role(role)
        found = [key for key in named.keyids if keyid and key.startswith(keyid)]
        if len(found) != 1:
            raise NotFoundError(f"{role}: {len(found)} keys begin with {keyid!r}; 'roadloop keys show' lists them")
        too_few = len(named.keyids) <= named.threshold
        new = self._new_key(role, public, request) if public is not None or too_few else None

        def edit(change: Change, new: PublicKey | None) -> None:
            if new is not None:
                change.add_key(role, new.key())
            change.remove_key(role, found[0])

        return self._make(edit, request, new, made_here=public is None)

    def set_threshold(self, role: str, threshold: int, request: Path | None = None) -> Change:
        """How many of its keys must sign for a role."""
        return self._make(lambda change, _: change.set_threshold(role, threshold), request)

    def renew(self, request: Path | None = None) -> Change:
        """Begin the lives of root, targets and all tasks again."""
        return self._make(lambda change, _: change.renew(), request)

    def import_signed(self, path: Path) -> Change:
        """Publish what was signed elsewhere. Raises BadInputError, ConflictError, ConfigError (signatures lack)."""
        request = decode_request(_read(path, MAX_REQUEST_BYTES), str(path))
        if request.of != self._of:
            raise BadInputError(f"{path}: concerns the repository {request.of}, not {self._of}")
        changed = request.changed
        change = self._repository.publish_signed(changed, self._offline.at_hand(), self._online.at_hand())
        self._retire(change)
        return change

    def _new_key(self, role: str, public: PublicKey | None, request: Path | None) -> PublicKey:
        name = f"{self._prefix}{role}"
        if public is not None:
            if public.role != name:
                raise BadInputError(f"the public key was made for {public.role}, not for {name}")
            return public
        if role in self._online_roles:
            return self._online.add(name)
        if request is not None:
            raise BadInputError(
                f"{name}: make its key where it is to be kept, by 'roadloop keys new {name} --keys FOLDER', "
                "and give its public part by --public"
            )
        return self._offline.add(name)

    def _make(
        self,
        edit: Callable[[Change, PublicKey | None], None],
        request: Path | None,
        new: PublicKey | None = None,
        *,
        made_here: bool = False,
    ) -> Change:
        try:
            if request is not None:
                change = self._repository.prepare(lambda change: edit(change, new))
                change.sign(self._offline.at_hand().values())
                write_request(request, change)
                return change
            change = self._repository.change(
                lambda change: edit(change, new), self._offline.at_hand(), self._online.at_hand()
            )
        except RoadloopError:
            if new is not None and made_here:  # nothing names it
                self._offline.retire(new.keyid)
                self._online.retire(new.keyid)
            raise
        self._retire(change)
        return change

    def _names(self) -> dict[str, str]:
        return {**self._offline.names(), **self._online.names()}

    def _role(self, role: str) -> Role:
        return self._repository.prepare(lambda change: None).role(role)

    def _retire(self, change: Change) -> None:
        for keyid in change.removed_keys():
            self._offline.retire(keyid)
            self._online.retire(keyid)


def expiry_warning(role: str, expires: datetime, now: datetime, option: str = "--offline") -> str | None:
    """What a person should know of a role's expiry; None where nothing is due."""
    if expires <= now:
        return "expired: vehicles refuse every release until it is renewed"
    life = LIFETIMES.get(role, LIFETIMES["targets"])
    if role in ONLINE_ROLES or expires - now > life * (1 - WARN_AT):
        return None
    return f"expires soon: roadloop keys renew {option}"


def write_request(path: Path, change: Change) -> None:
    """Write what is to be signed elsewhere. Raises BadInputError where the path is no file that can be written."""
    try:
        write_atomic(path, encode_request(change))
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}") from error


def repository_of(path: Path) -> RepositoryName:
    """Which repository a request concerns. Raises BadInputError, TrustError, ConfigError."""
    return decode_request(_read(path, MAX_REQUEST_BYTES), str(path)).of


def show_request(path: Path, keys: KeyFolder) -> list[Shown]:
    """What of a request these keys are asked to sign. Raises BadInputError, TrustError, ConfigError."""
    return show(decode_request(_read(path, MAX_REQUEST_BYTES), str(path)), keys.at_hand().values())


def sign_request(path: Path, keys: KeyFolder) -> tuple[Sequence[tuple[str, str]], Sequence[Unsigned]]:
    """Add the signatures that these keys can give: (role, key id) of each, and what lacks still.

    Needs no workspace. Raises BadInputError, TrustError, ConfigError.
    """
    change = decode_request(_read(path, MAX_REQUEST_BYTES), str(path))
    added = change.sign(keys.at_hand().values())
    if added:
        write_request(path, change)
    return added, change.unsigned()


def read_public_key(path: Path) -> PublicKey:
    """What `roadloop keys new` wrote. Raises BadInputError, ConfigError naming the file."""
    try:
        found = from_json(_read(path, MAX_PUBLIC_KEY_BYTES), PublicKey)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: no public key of 'roadloop keys new': {error}") from error
    found.key()
    return found


def write_public_key(path: Path, key: PublicKey) -> None:
    """Write the part of a key that may travel. Raises BadInputError where the path is no file that can be written."""
    try:
        write_atomic(path, msgspec.json.format(msgspec.json.encode(key)) + b"\n")
    except OSError as error:
        raise BadInputError(f"{path}: {error.strerror or error}") from error


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if path.stat().st_size > max_bytes:
            raise BadInputError(f"{path}: {path.stat().st_size} bytes, at most {max_bytes} are read")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
