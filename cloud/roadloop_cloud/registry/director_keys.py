"""The director's keys. One chain of roots names them for the fleet; what they sign is made when it is asked for."""

from collections.abc import Callable, Mapping
from datetime import datetime

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Targets

from roadloop_cloud.registry.ceremonies import Ceremonies, KeyStatus, RoleKeys, expiry_warning
from roadloop_cloud.registry.change import DIRECTOR, Change, Offline, Published
from roadloop_cloud.registry.director import DIRECTOR_OFFLINE, DIRECTOR_ONLINE, DIRECTOR_ROOT, LIFETIMES, Directors
from roadloop_cloud.registry.keys import ROOT, TARGETS, KeyFolder
from roadloop_cloud.registry.repository import RoleStatus
from roadloop_models.errors import BadInputError

DIRECTOR_ROLES = (*DIRECTOR_OFFLINE, *DIRECTOR_ONLINE)
PREFIX = "director-"


class DirectorRoots:
    """The chain of roots, as ceremonies change it: of the director only root is signed offline."""

    def __init__(self, directors: Directors, now: Callable[[], datetime]) -> None:
        """`now` is wall time."""
        self._directors = directors
        self._now = now

    def prepare(self, edit: Callable[[Change], None]) -> Change:
        """A change that is neither signed nor published. Raises what `edit` raises, TrustError."""
        change = Change(self._published(), self._expiry, of=DIRECTOR)
        edit(change)
        change.changed.pop(TARGETS, None)
        return change

    def change(
        self, edit: Callable[[Change], None], offline: Mapping[str, Signer], _online: Mapping[str, Signer]
    ) -> Change:
        """Change roles and keys, sign and publish. Raises what `edit` raises, ConfigError where keys are missing."""
        return self._publish(self.prepare(edit), offline)

    def publish_signed(
        self, changed: Mapping[str, Offline], offline: Mapping[str, Signer], _online: Mapping[str, Signer]
    ) -> Change:
        """Publish what was signed elsewhere. Raises ConflictError (not the next), ConfigError (signatures lack)."""
        if set(changed) != {ROOT}:
            raise BadInputError(f"of the director only root is signed elsewhere, not {', '.join(changed)}")
        return self._publish(Change.signed_elsewhere(self._published(), changed, of=DIRECTOR), offline)

    def status(self) -> list[RoleStatus]:
        """Of root: what the others sign is each vehicle's."""
        root = self._directors.root()
        role = root.roles[ROOT]
        return [RoleStatus(ROOT, root.version, root.expires, tuple(role.keyids), role.threshold)]

    def tasks(self) -> tuple[str, ...]:
        """None: what a vehicle must run is named by role targets."""
        return ()

    def _publish(self, change: Change, offline: Mapping[str, Signer]) -> Change:
        change.sign(offline.values())
        change.require_signed()
        self._directors.publish_root(change.new_root())
        return change

    def _published(self) -> Published:
        return Published(self._directors.root_metadata(), Metadata(Targets()), {})

    def _expiry(self, _role: str) -> datetime:
        return self._now().replace(microsecond=0) + LIFETIMES[DIRECTOR_ROOT]


class DirectorKeys(Ceremonies):
    """Application service on the keys that sign for each vehicle what it must run."""

    def __init__(
        self, directors: Directors, offline: KeyFolder, online: KeyFolder, now: Callable[[], datetime]
    ) -> None:
        """`now` is wall time. Keys are read when they are needed."""
        online_roles = tuple(name.removeprefix(PREFIX) for name in DIRECTOR_ONLINE)
        roots = DirectorRoots(directors, now)
        super().__init__(
            roots, offline, online, now, of=DIRECTOR, prefix=PREFIX, option="--director", online_roles=online_roles
        )
        self._directors = directors

    def show(self) -> list[RoleKeys]:
        """Its roles; of those that sign for one vehicle at a time, only keys. Raises TrustError (no root)."""
        root = self._directors.root()
        names = self._names()
        shown = []
        for name in DIRECTOR_ROLES:
            role = root.roles[name.removeprefix(PREFIX)]
            own = name == DIRECTOR_ROOT
            shown.append(
                RoleKeys(
                    name,
                    root.version if own else None,
                    root.expires if own else None,
                    (root.expires - self._now()).total_seconds() / 86_400 if own else None,
                    expiry_warning(ROOT, root.expires, self._now(), self._option) if own else None,
                    role.threshold,
                    tuple(KeyStatus(keyid, names.get(keyid)) for keyid in role.keyids),
                )
            )
        return shown
