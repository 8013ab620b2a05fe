"""The floor of what a client of signed metadata believes."""

from datetime import UTC, datetime

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, Root, Snapshot, Timestamp

from roadloop_agent.update.floor import Floor, raised, versions_of, vouching_keys
from roadloop_agent.update.refused import MetadataError

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def root() -> Root:
    made = Root(version=12)
    for role in ("snapshot", "timestamp"):
        made.add_key(CryptoSigner.generate_ed25519().public_key, role)
    return made


def snapshot(**roles: int) -> Snapshot:
    return Snapshot(version=4, meta={f"{role}.json": MetaFile(version) for role, version in roles.items()})


def test_a_snapshot_that_names_root_says_nothing_of_the_root_that_was_followed(root: Root) -> None:
    """As the repository of sigstore does."""
    versions = versions_of(root, Timestamp(version=9), snapshot(root=2, targets=7, task=3))
    assert versions == {"root": 12, "timestamp": 9, "snapshot": 4, "targets": 7, "task": 3}


@pytest.mark.parametrize("now", [snapshot(targets=7, task=2), snapshot(targets=7)])
def test_a_role_that_is_older_or_gone_is_refused(root: Root, now: Snapshot) -> None:
    before = raised(Floor({}, NOW), root, Timestamp(version=9), snapshot(targets=7, task=3), NOW)
    with pytest.raises(MetadataError, match="task: version (2|none) is offered, 3 was seen before"):
        raised(before, root, Timestamp(version=9), now, NOW)


def test_new_online_keys_begin_all_but_root_again(root: Root) -> None:
    before = raised(Floor({}, NOW), root, Timestamp(version=9_000), snapshot(targets=7_000), NOW)
    old = root.roles["timestamp"].keyids[0]
    root.revoke_key(old, "timestamp")
    root.add_key(CryptoSigner.generate_ed25519().public_key, "timestamp")
    after = raised(before, root, Timestamp(version=1), snapshot(targets=1), NOW)
    assert (after.versions["timestamp"], after.keys) == (1, vouching_keys(root))
    root.version = 11
    with pytest.raises(MetadataError, match="root: version 11 is offered, 12"):
        raised(before, root, Timestamp(version=1), snapshot(targets=1), NOW)
