"""Whose director a vehicle is given: its own, and no other can even be named."""

import hashlib
import logging

from roadloop_cloud.fleet.files import Files, ServedFile
from roadloop_cloud.registry.director import Directors
from roadloop_models.errors import RoadloopError

PREFIX = "director/"

_log = logging.getLogger(__name__)


class DirectorFiles:
    """What transports serve from: `director/...` is that of the vehicle that asks, all else comes from `others`."""

    def __init__(self, directors: Directors, others: Files) -> None:
        self._directors = directors
        self._others = others

    def find(self, vehicle: str, path: str) -> ServedFile | None:
        """See Files."""
        if not path.startswith(PREFIX):
            return self._others.find(vehicle, path)
        try:
            content = self._directors.read(vehicle, path.removeprefix(PREFIX))
        except (RoadloopError, OSError):  # a key or a disk that is gone must not stop what else is served
            _log.exception("%s for %s", path, vehicle)
            return None
        if content is None:
            return None
        return ServedFile(path, hashlib.sha256(content).hexdigest(), len(content), content)
