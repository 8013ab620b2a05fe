"""The director's keys: looked at, rotated, and the life of their root begun again."""

from collections.abc import Callable
from datetime import datetime

from roadloop_cloud.registry.ceremonies import KeyStatus, RoleKeys, expiry_warning
from roadloop_cloud.registry.director import DIRECTOR_OFFLINE, DIRECTOR_ONLINE, DIRECTOR_ROOT, Directors
from roadloop_cloud.registry.keys import KeyFolder
from roadloop_models.errors import RoadloopError

DIRECTOR_ROLES = (*DIRECTOR_OFFLINE, *DIRECTOR_ONLINE)


class DirectorKeys:
    """Application service on the keys that sign for each vehicle what it must run."""

    def __init__(
        self, directors: Directors, offline: KeyFolder, online: KeyFolder, now: Callable[[], datetime]
    ) -> None:
        """`now` is wall time. Keys are read when they are needed."""
        self._directors = directors
        self._offline = offline
        self._online = online
        self._now = now

    def show(self) -> list[RoleKeys]:
        """Its roles; of those that sign for one vehicle at a time, only keys. Raises TrustError (no root)."""
        root = self._directors.root()
        names = {**self._offline.names(), **self._online.names()}
        shown = []
        for name in DIRECTOR_ROLES:
            role = root.roles[name.removeprefix("director-")]
            own = name == DIRECTOR_ROOT
            shown.append(
                RoleKeys(
                    name,
                    root.version if own else None,
                    root.expires if own else None,
                    (root.expires - self._now()).total_seconds() / 86_400 if own else None,
                    expiry_warning("root", root.expires, self._now()) if own else None,
                    role.threshold,
                    tuple(KeyStatus(keyid, names.get(keyid)) for keyid in role.keyids),
                )
            )
        return shown

    def rotate(self, role: str) -> int:
        """Replace the key of one of its roles; the version of the root that says so.

        Each vehicle's metadata is signed by the new key when that vehicle asks next. Raises ConfigError where the key
        of its root is not at hand.
        """
        folder = self._offline if role == DIRECTOR_ROOT else self._online
        before = self._offline.signers()
        old = folder.signers()[role].public_key.keyid
        new = folder.add(role)
        try:
            # By name the last of a role counts, and the old root has to vouch for the new.
            added = {f"{DIRECTOR_ROOT}@": self._offline.signers()[DIRECTOR_ROOT]} if role == DIRECTOR_ROOT else {}
            version = self._directors.renew_root({**before, **added})
        except RoadloopError:
            folder.retire(new.keyid)
            raise
        folder.retire(old)
        return version

    def renew(self) -> int:
        """Begin the life of its root again; its version. Raises ConfigError where the root's key is not at hand."""
        return self._directors.renew_root(self._offline.signers())
