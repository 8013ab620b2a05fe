"""A vehicle of two slots whose releases switch together or not at all."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from roadloop_agent.update.state import Ended, Ready, Trial
from roadloop_agent.update.store import InstalledVersion, ProvisionedReleases, Store, open_version
from roadloop_models.bundle import Bundle
from roadloop_models.contract.messages import ReleaseRef
from tests.fakes.opaque_bundles import VARIANT, opaque_bundle, release_ref
from tests.fakes.provisioned import BAD, POLICY

SLOTS = {"sign": "traffic-sign", "speed": "traffic-speed"}
GROUP = tuple(sorted(SLOTS))


class Pair:
    """A provisioning folder with release 1 in both slots, and releases 2 and 3 as they would be staged."""

    def __init__(self, directory: Path, state: Path | None = None) -> None:
        self.directory = directory
        self.state = state or directory / "state" / "store"

    @classmethod
    def made(cls, directory: Path) -> "Pair":
        refs = {}
        (directory / "releases").mkdir(parents=True)
        for slot, task in SLOTS.items():
            bundle = opaque_bundle(directory / f"made-{slot}", f"{slot}-v1", task=task)
            refs[slot] = release_ref(bundle, 1)
            bundle.directory.rename(directory / "releases" / refs[slot].manifest_sha256)
            for release in (2, 3):
                opaque_bundle(directory / f"staged-{slot}-{release}", f"{slot}-v{release}", task=task)
        (directory / "releases.json").write_bytes(msgspec.json.encode(ProvisionedReleases(refs)))
        return cls(directory)

    def refs(self, release: int) -> dict[str, ReleaseRef]:
        """One for each slot; 2 or 3."""
        return {slot: release_ref(Bundle.open(self._staged(slot, release)), release) for slot in SLOTS}

    def store(self) -> Store:
        return Store(self.state, dict.fromkeys(SLOTS, VARIANT), self.directory)

    def provisioned(self) -> Store:
        store = self.store()
        store.provision(lambda refs: None)
        return store

    def begin(self, store: Store, release: int) -> None:
        """As the update service does: install one after the other, wait, and begin both in one write."""
        refs = self.refs(release)
        for slot, ref in refs.items():
            store.install(slot, ref, self._staged(slot, release))
            store.remember_ready(slot, Ready(ref=ref, policy=POLICY, version=release, group=GROUP))
        store.begin_trials({slot: Trial(ref, POLICY) for slot, ref in refs.items()})

    def _staged(self, slot: str, release: int) -> Path:
        return self.directory / f"staged-{slot}-{release}"


def start(store: Store) -> int:
    """What drive runs after a start; the same release in both slots."""
    releases = set()
    for version in store.start(SLOTS).values():
        assert isinstance(version, InstalledVersion), version
        open_version(version.directory, version.ref, VARIANT)
        releases.add(version.ref.release)
    assert len(releases) == 1, f"a mixed set runs: {releases}"
    return releases.pop()


def life(pair: Pair, reach: Callable[[int], None] = lambda step: None) -> None:
    """Two updates of both slots, one kept and one taken back, with the starts of drive in between."""
    store = pair.provisioned()
    reach(1)
    pair.begin(store, 2)
    reach(2)
    start(store)
    reach(3)
    store.confirm(pair.refs(2))
    reach(4)
    pair.begin(store, 3)
    reach(5)
    start(store)
    reach(6)
    store.take_back({"speed": Ended(pair.refs(3)["speed"], BAD)})
    reach(7)
    store.collect_garbage()
    reach(8)
