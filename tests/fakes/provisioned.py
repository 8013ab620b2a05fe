"""A vehicle's provisioning folder with opaque bundles, and releases as they would be staged on it."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from roadloop_agent.update.state import Ended, SlotState, Trial
from roadloop_agent.update.store import ProvisionedReleases, Store, open_version
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef
from tests.fakes.opaque_bundles import VARIANT, opaque_bundle, release_ref

POLICY = Policy(health_window_s=3.0)
BAD = ErrorInfo(code="health-failed", detail="too many errors")
SLOT = "sign"


class Vehicle:
    """A provisioning folder with release 1, and releases 2 and 3 as they would be staged."""

    def __init__(self, directory: Path, state: Path | None = None) -> None:
        self.directory = directory
        self.state = state or directory / "state" / "store"

    @classmethod
    def made(cls, directory: Path) -> "Vehicle":
        vehicle = cls(directory)
        first = opaque_bundle(directory / "made", "v1")
        one = release_ref(first, 1)
        (directory / "releases").mkdir()
        first.directory.rename(directory / "releases" / one.manifest_sha256)
        (directory / "releases.json").write_bytes(msgspec.json.encode(ProvisionedReleases({SLOT: one})))
        for release in (2, 3):
            opaque_bundle(directory / f"staged-{release}", f"v{release}")
        return vehicle

    def ref(self, release: int) -> ReleaseRef:
        if release == 1:
            releases = msgspec.json.decode((self.directory / "releases.json").read_bytes(), type=ProvisionedReleases)
            return releases.slots[SLOT]
        return release_ref(Bundle.open(self.staged(release)), release)

    def staged(self, release: int) -> Path:
        return self.directory / f"staged-{release}"

    def store(self) -> Store:
        return Store(self.state, {SLOT: VARIANT}, self.directory)

    def provisioned(self) -> Store:
        store = self.store()
        store.provision(lambda refs: None)
        return store

    def install(self, store: Store, release: int) -> None:
        store.install(SLOT, self.ref(release), self.staged(release))

    def begin(self, store: Store, release: int) -> None:
        self.install(store, release)
        self.trial(store, release)

    def trial(self, store: Store, release: int) -> SlotState:
        return store.begin_trials({SLOT: Trial(self.ref(release), POLICY)})[SLOT]

    def confirm(self, store: Store, release: int) -> SlotState:
        return store.confirm({SLOT: self.ref(release)})[SLOT]

    def take_back(self, store: Store, release: int, error: ErrorInfo | None = BAD) -> SlotState:
        return store.take_back({SLOT: Ended(self.ref(release), error)})[SLOT]


def started(store: Store) -> int:
    """The release that drive would run; its bundle has been opened and checked."""
    version = store.load_for_start(SLOT)
    open_version(version.directory, version.ref, VARIANT)
    return version.ref.release


def life(vehicle: Vehicle, reach: Callable[[int], None] = lambda step: None) -> None:
    """Two updates, one kept and one taken back, with the starts of drive in between. `reach`: told of each step."""
    store = vehicle.provisioned()
    reach(1)
    vehicle.begin(store, 2)
    reach(2)
    store.load_for_start(SLOT)
    reach(3)
    vehicle.confirm(store, 2)
    reach(4)
    vehicle.begin(store, 3)
    reach(5)
    store.load_for_start(SLOT)
    reach(6)
    vehicle.take_back(store, 3)
    reach(7)
    store.collect_garbage()
    reach(8)
