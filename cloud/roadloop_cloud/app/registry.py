"""Builds what holds models and signs them: registry, repositories, keys."""

import logging
from functools import cached_property
from typing import TYPE_CHECKING

from roadloop_cloud.app.store import StoreParts

if TYPE_CHECKING:  # imported where they are built: a command pays only for what it uses
    from roadloop_cloud.registry.ceremonies import Ceremonies
    from roadloop_cloud.registry.director import Directors
    from roadloop_cloud.registry.director_keys import DirectorKeys
    from roadloop_cloud.registry.keys import KeyFolder
    from roadloop_cloud.registry.models import ModelRegistry
    from roadloop_cloud.registry.releases import Releases
    from roadloop_cloud.registry.repository import ImageRepository
    from roadloop_cloud.registry.sealing import SealedReleases

_log = logging.getLogger(__name__)


class RegistryParts(StoreParts):
    """Models, releases and the keys that sign them."""

    @cached_property
    def models(self) -> "ModelRegistry":
        """Registered models."""
        from roadloop_cloud.registry.models import ModelRegistry

        return ModelRegistry(self.database, self.workspace.models)

    @cached_property
    def repository(self) -> "ImageRepository":
        """The TUF image repository."""
        from roadloop_cloud.registry.repository import ImageRepository

        return ImageRepository(self.workspace.repository)

    @cached_property
    def releases(self) -> "Releases":
        """Signed releases."""
        from roadloop_cloud.registry.releases import Releases

        return Releases(
            self.database,
            self.models,
            self.repository,
            self.offline_keys,
            self.online_keys,
            sealing=self.sealing,
            sealed_tasks=self.workspace.config.sealing.tasks,
        )

    @cached_property
    def sealing(self) -> "SealedReleases":
        """Sealed forms of releases, and their content keys."""
        from roadloop_cloud.registry.sealing import SealedReleases
        from roadloop_cloud.store.ingest_tables import Vehicle

        def public_key(vehicle: str) -> bytes | None:
            with self.database.reading() as session:
                row = session.get(Vehicle, vehicle)
            return None if row is None else row.sealing_key

        return SealedReleases(self.workspace.sealed, self.workspace.content_keys, public_key)

    @cached_property
    def offline_keys(self) -> "KeyFolder":
        """Keys of root, targets and tasks, where they are in place."""
        from roadloop_cloud.registry.keys import OFFLINE_ROLES, KeyFolder

        return KeyFolder(self.workspace.offline_keys, OFFLINE_ROLES)

    @cached_property
    def online_keys(self) -> "KeyFolder":
        """Keys of snapshot and timestamp."""
        from roadloop_cloud.registry.keys import ONLINE_ROLES, KeyFolder

        return KeyFolder(self.workspace.online_keys, ONLINE_ROLES)

    @cached_property
    def ceremonies(self) -> "Ceremonies":
        """What a person does with keys."""
        from roadloop_cloud.registry.ceremonies import Ceremonies
        from roadloop_cloud.store.database import now_utc

        return Ceremonies(self.repository, self.offline_keys, self.online_keys, now_utc)

    @cached_property
    def directors(self) -> "Directors":
        """What each vehicle is told to run, signed for it alone."""
        from roadloop_cloud.registry.director import Directors, ManifestSizes

        return Directors(
            self.workspace.director,
            self.online_keys.at_hand,
            ManifestSizes(self.workspace.repository),
            wrapped_keys=self.sealing.wrapped_keys,
        )

    def create_director(self) -> None:
        """Keys and root of the director of a new workspace. Repeatable."""
        from roadloop_cloud.registry.director import DIRECTOR_OFFLINE, DIRECTOR_ONLINE
        from roadloop_cloud.registry.keys import KeyFolder

        KeyFolder(self.workspace.online_keys, DIRECTOR_ONLINE).create()
        offline = KeyFolder(self.workspace.offline_keys, DIRECTOR_OFFLINE)
        offline.create()
        self.directors.create(offline.signers())

    @cached_property
    def director_keys(self) -> "DirectorKeys":
        """What a person does with the director's keys."""
        from roadloop_cloud.registry.director_keys import DirectorKeys
        from roadloop_cloud.store.database import now_utc

        return DirectorKeys(self.directors, self.offline_keys, self.online_keys, now_utc)

    def renew_online(self) -> bool:
        """Sign snapshot and timestamp anew where it is time, and say in the log what a person has to renew."""
        renewed = self.releases.renew_online()
        if renewed:
            for warning in (*self.ceremonies.warnings(), *self.director_keys.warnings()):
                _log.warning("%s", warning)
        return renewed
