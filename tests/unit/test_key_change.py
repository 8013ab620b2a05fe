"""Changes of keys and of what they sign: who must sign what, and what a person sees before signing."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from roadloop_cloud.registry.change import Change, Published
from roadloop_cloud.registry.request import decode_request, differences, encode_request, show
from roadloop_models.errors import BadInputError, ConfigError, ConflictError, NotFoundError, TrustError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ROLES = ("root", "targets", "snapshot", "timestamp")
TASK = "traffic-sign"


class Keys:
    """A signer for each role, and the metadata that they signed."""

    def __init__(self) -> None:
        self.of = {role: CryptoSigner.generate_ed25519() for role in (*ROLES, TASK)}
        root = Root(version=1, expires=NOW, consistent_snapshot=True)
        for role in ROLES:
            root.add_key(self.of[role].public_key, role)
        first = Published(Metadata(root), Metadata(Targets(version=1, expires=NOW)), {})
        made = change_of(first)
        made.delegate(TASK, self.of[TASK].public_key)
        made.renew()
        made.sign(self.of.values())
        made.require_signed()
        after = {role: made.changed[role] for role in ("root", "targets", TASK)}
        self.published = Published(after["root"], after["targets"], {TASK: after[TASK]})  # type: ignore[arg-type, dict-item]

    def change(self) -> Change:
        return change_of(self.published)


def change_of(published: Published) -> Change:
    return Change(published, lambda role: NOW + timedelta(days=len(role)))


@pytest.fixture
def keys() -> Keys:
    return Keys()


def target(name: str) -> TargetFile:
    return TargetFile.from_data(name, name.encode(), ["sha256"])


def who_must_sign(change: Change) -> dict[str, int]:
    return {one.role: one.count for one in change.unsigned()}


def test_a_file_needs_the_key_of_its_task_and_no_other(keys: Keys) -> None:
    change = keys.change()
    change.add_target(target(f"{TASK}/2/manifest.json"))
    assert list(change.changed) == [TASK]
    change.sign([signer for role, signer in keys.of.items() if role != TASK])
    assert who_must_sign(change) == {TASK: 1}
    with pytest.raises(ConfigError, match=f"{TASK} lacks 1 signature by {keys.of[TASK].public_key.keyid[:8]}"):
        change.require_signed()
    change.sign([keys.of[TASK]])
    change.require_signed()
    assert change.before.tasks[TASK].signed.targets == {}, "what is published is not touched"


@pytest.mark.parametrize("name", ["traffic-sign/2/a/b/c/d", "traffic-sign/x"])
def test_a_file_that_its_role_may_not_sign_is_refused(keys: Keys, name: str) -> None:
    with pytest.raises(BadInputError, match="deeper"):
        keys.change().add_target(target(name))


@pytest.mark.parametrize("task", ROLES)
def test_a_task_may_not_have_the_name_of_a_role(keys: Keys, task: str) -> None:
    with pytest.raises(BadInputError, match="choose another"):
        keys.change().delegate(task, CryptoSigner.generate_ed25519().public_key)


def test_a_new_root_key_is_vouched_for_by_the_old_and_by_itself(keys: Keys) -> None:
    new = CryptoSigner.generate_ed25519()
    change = keys.change()
    change.add_key("root", new.public_key)
    change.remove_key("root", keys.of["root"].public_key.keyid)
    assert change.removed_keys() == {keys.of["root"].public_key.keyid}
    change.sign([new])
    assert who_must_sign(change) == {"root": 1}
    change.sign([keys.of["root"]])
    assert who_must_sign(change) == {}


@pytest.mark.parametrize("role", ["targets", TASK])
def test_while_a_key_changes_old_and_new_both_sign(keys: Keys, role: str) -> None:
    new = CryptoSigner.generate_ed25519()
    change = keys.change()
    change.add_key(role, new.public_key)
    change.remove_key(role, keys.of[role].public_key.keyid)
    change.sign([*keys.of.values(), new])
    assert set(change.changed[role].signatures) == {new.public_key.keyid, keys.of[role].public_key.keyid}
    change.require_signed()


def test_a_threshold_needs_as_many_keys(keys: Keys) -> None:
    second = CryptoSigner.generate_ed25519()
    change = keys.change()
    with pytest.raises(BadInputError, match="has 1 keys"):
        change.set_threshold("targets", 2)
    change.add_key("targets", second.public_key)
    change.set_threshold("targets", 2)
    change.sign(keys.of.values())
    assert who_must_sign(change) == {"targets": 1}
    change.sign([second])
    assert who_must_sign(change) == {}
    with pytest.raises(BadInputError, match="add another first"):
        change.remove_key("targets", second.public_key.keyid)


def test_what_is_not_there_is_named(keys: Keys) -> None:
    with pytest.raises(NotFoundError, match="no role lane"):
        keys.change().role("lane")
    with pytest.raises(NotFoundError, match="no key 00000000"):
        keys.change().remove_key("root", "0" * 64)


def test_what_was_signed_elsewhere_is_the_next_version_or_nothing(keys: Keys) -> None:
    change = keys.change()
    change.renew()
    change.sign(keys.of.values())
    Change.signed_elsewhere(keys.published, change.changed).require_signed()
    after = Published(change.changed["root"], change.changed["targets"], {TASK: change.changed[TASK]})  # type: ignore[arg-type, dict-item]
    with pytest.raises(ConflictError, match="make the request again"):
        Change.signed_elsewhere(after, change.changed)


# The request as it travels.


def renewed(keys: Keys) -> Change:
    change = keys.change()
    change.renew()
    change.add_target(target(f"{TASK}/2/manifest.json"))
    return change


def test_a_request_keeps_its_signatures_on_its_way(keys: Keys) -> None:
    there = decode_request(encode_request(renewed(keys)), "request.json")
    assert {one.role for one in there.unsigned()} == {"root", "targets", TASK}
    there.sign([keys.of["root"]])
    further = decode_request(encode_request(there), "request.json")
    assert {one.role for one in further.unsigned()} == {"targets", TASK}
    further.sign(keys.of.values())
    back = decode_request(encode_request(further), "request.json")
    Change.signed_elsewhere(keys.published, back.changed).require_signed()


def test_one_sees_what_one_signs_and_only_that(keys: Keys) -> None:
    (shown,) = show(renewed(keys), [keys.of[TASK]])
    assert (shown.role, shown.compared) == (TASK, True)
    assert shown.lines[0].startswith("version 1 -> 2")
    assert [line for line in shown.lines if "file" in line] == [
        f"+ file {TASK}/2/manifest.json: 28 bytes, SHA-256 {target(f'{TASK}/2/manifest.json').hashes['sha256']}, {{}}"
    ]


def test_a_false_past_hides_nothing(keys: Keys) -> None:
    """The machine that asks puts its own key into what it says was there before, so that no difference would show."""
    thief = CryptoSigner.generate_ed25519()
    change = keys.change()
    change.add_key("targets", thief.public_key)
    root = change.changed["root"].signed
    assert isinstance(root, Root)
    forged = Published(Metadata(root), keys.published.targets, keys.published.tasks)
    asking = change_of(forged)
    asking.renew()
    seen = next(shown for shown in show(asking, [keys.of["root"]]) if shown.role == "root")
    assert not seen.compared
    assert any(line.startswith("+ role targets") and thief.public_key.keyid[:8] in line for line in seen.lines)


def test_metadata_under_the_name_of_another_role_is_not_signed(keys: Keys) -> None:
    change = renewed(keys)
    change.changed[TASK], change.changed["root"] = change.changed["root"], change.changed[TASK]
    with pytest.raises(TrustError, match="do not sign it"):
        decode_request(encode_request(change), "request.json")


def test_differences_name_keys_and_thresholds(keys: Keys) -> None:
    new = CryptoSigner.generate_ed25519()
    change = keys.change()
    change.add_key("root", new.public_key)
    change.set_threshold("root", 2)
    lines = differences(keys.published.root, change.changed["root"])
    old = keys.of["root"].public_key.keyid[:8]
    both = ", ".join(sorted((old, new.public_key.keyid[:8])))
    assert lines[1:] == [f"- role root: 1 of {old}", f"+ role root: 2 of {both}"]


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_no_request_or_one(content: bytes) -> None:
    with pytest.raises((BadInputError, TrustError), match=r"request\.json"):
        decode_request(content, "request.json")
