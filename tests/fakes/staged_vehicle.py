"""The vehicle's side of a delivery, wired to the simulated repository: store, trust, fetcher."""

import queue
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from roadloop_agent.update.acceptance import Acceptance
from roadloop_agent.update.delivery import Delivery
from roadloop_agent.update.director import Director
from roadloop_agent.update.fetch import INBOX_BLOCKS, BlockFetcher
from roadloop_agent.update.store import Store
from roadloop_agent.update.trust import SignedTargets, Trust, verify_provisioned
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import Desired, FetchRequest, FileBlock, ReleaseRef
from tests.fakes.opaque_bundles import VARIANT, opaque_bundle
from tests.fakes.repository import VAN, BlockServer, Repository

SLOT = "sign"
WEIGHTS_BYTES = 500_000
"""Eight blocks."""


class Quiet(queue.Queue[tuple[str, int, FileBlock]]):
    """An inbox with a clock: waiting for what does not come takes its time at once."""

    now_s = 0.0

    def get(self, block: bool = True, timeout: float | None = None) -> tuple[str, int, FileBlock]:
        """The next block; where there is none, the clock moves on and Empty is raised."""
        if self.empty():
            self.now_s += (timeout or 0.0) + 0.001 if block else 0.0
            raise queue.Empty
        return super().get(block=False)


class StagedVehicle:
    """Provisioned with release 1 of the repository; release 2 is signed."""

    def __init__(self, directory: Path, now: datetime) -> None:
        self.directory = directory
        self.clock: Callable[[], datetime] = lambda: now
        self.repository = Repository(now)
        self.bundles: dict[int, Bundle] = {}
        self.counter = 0
        self.obliging = True
        """Whether the director names whatever is about to be fetched."""
        self.first = self.publish(1, 2_000)
        self.repository.provision(directory, {SLOT: (self.first, self.bundles[1].directory)})
        self.second = self.publish(2)
        self.restart()
        self.store.provision(lambda refs: verify_provisioned(directory / "trust", refs))

    def publish(self, release: int, weights_bytes: int = WEIGHTS_BYTES, **changes: Any) -> ReleaseRef:
        """Make and sign a release."""
        self.bundles[release] = opaque_bundle(
            self.directory / f"made-{release}", f"v{release}", weights_bytes, **changes
        )
        return self.repository.add(self.bundles[release], release)

    def restart(self) -> None:
        """New objects on what is on disk, as after a kill."""
        state = self.directory / "state"
        self.store = Store(state / "store", {SLOT: VARIANT}, self.directory)
        self.inbox = inbox = Quiet(INBOX_BLOCKS)
        self.fetcher = BlockFetcher(self._send, lambda: inbox.now_s, inbox=inbox)
        self.server = BlockServer(self.repository, self.fetcher.deliver)
        time = TrustedTime(self._now, lambda: inbox.now_s)
        self.director = Director(state / "director", self.directory / "trust", VAN, self.fetcher, time)
        self.trust = Trust(state / "trust", self.directory / "trust", self.fetcher, time.now)
        self.delivery = Delivery(
            staging=state / "staging",
            store=self.store,
            refresh=self._accept,
            fetcher=self.fetcher,
            agent_version="0.1.0",
        )

    def assign(self, ref: ReleaseRef, shadow: bool = False) -> None:
        """Have the director name a release, as the cloud does before it publishes a desired state."""
        self.counter += 1
        slots, shadows = ({}, {SLOT: ref}) if shadow else ({SLOT: ref}, {})
        self.repository.assign(VAN, Desired(version=self.counter, slots=slots, shadows=shadows))

    def _accept(self, slot: str, ref: ReleaseRef, shadow: bool) -> SignedTargets:
        if self.obliging:
            self.assign(ref, shadow)
        return Acceptance(self.director.refresh, self.trust.refresh, self.store.slot)(slot, ref, shadow)

    def _send(self, request: FetchRequest) -> None:
        self.server(request)

    def _now(self) -> datetime:
        return self.clock()
