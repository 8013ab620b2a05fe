"""What the image repository signs, verified once for all twins of a process.

It says the same to every vehicle, and verifying it costs each one milliseconds that thousands on one machine do not
have. What is a vehicle's own stays its own: its director, whether both agree on a release, and the hash of every file.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tuf.api.metadata import TargetFile
from tuf.ngclient.fetcher import FetcherInterface

from roadloop_agent.sim.turns import Turns
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.trust import SignedTargets, Trust
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_agent.update.tuf_client import Fetcher
from roadloop_models.contract.messages import ReleaseRef

KEPT_S = 30.0


class SharedImages:
    """One client of the image repository; whoever finds its memory old asks for all. Any thread may ask."""

    def __init__(
        self, directory: Path, provisioned: Path, mono: Callable[[], float], turns: Turns, kept_s: float = KEPT_S
    ) -> None:
        """`directory`: the client's memory; `provisioned`: `trust/` of any vehicle of the fleet."""
        self._lock = threading.RLock()
        self._turns = turns
        self._directory = directory
        self._provisioned = provisioned
        self._mono = mono
        self._kept_s = kept_s
        self._signed: SignedTargets | None = None
        self._asked_s = 0.0

    def read(self, fetcher: Fetcher, time: TrustedTime) -> SignedTargets:
        """What is signed, as far as it is known here. Raises what Trust.refresh raises."""
        since_s = self._mono()
        signed = self.newer_than(since_s - self._kept_s, fetcher, time)
        updater = copy.copy(signed.updater)
        updater._fetcher = cast(FetcherInterface, fetcher)
        return _SharedTargets(updater, signed.now, signed.keys, _Asker(self, fetcher, time, since_s))

    def newer_than(self, since_s: float, fetcher: Fetcher, time: TrustedTime) -> SignedTargets:
        """What was asked for since then, by anybody; else it is asked for now."""
        with self.alone():
            if self._signed is None or self._asked_s < since_s:
                asked_s = self._mono()
                self._signed = Trust(self._directory, self._provisioned, fetcher, time.now).refresh()
                self._asked_s = asked_s
            return self._signed

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One twin at a time. Who waits for it has no turn: the one that is in may need it."""
        with self._turns.aside():
            self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()


@dataclass(frozen=True)
class _Asker:
    """The twin that asked, and when."""

    images: SharedImages
    fetcher: Fetcher
    time: TrustedTime
    since_s: float


@dataclass(frozen=True)
class _SharedTargets(SignedTargets):
    """The common memory, with a twin's own way to fetch files."""

    asker: _Asker | None = None

    def find(self, path: str) -> TargetFile | None:
        """See SignedTargets; one twin at a time, because a task's role may be new to all of them."""
        assert self.asker is not None
        with self.asker.images.alone():
            return super().find(path)

    def manifest(self, ref: ReleaseRef) -> TargetFile:
        """See SignedTargets; a release that is not known here may be newer than what is."""
        try:
            return super().manifest(ref)
        except MetadataError:
            asker = self.asker
            assert asker is not None
            newer = asker.images.newer_than(asker.since_s, asker.fetcher, asker.time)
            self.updater._trusted_set = newer.updater._trusted_set
            return super().manifest(ref)
