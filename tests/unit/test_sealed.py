"""Sealed files and wrapped keys: what opens them, and that nothing else does."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.errors import BundleError, ConfigError
from roadloop_models.sealed import (
    KEY_BYTES,
    KEY_FILE,
    OVERHEAD_BYTES,
    WRAPPED_BYTES,
    FileKeyStore,
    encode_key_file,
    new_key_pair,
    read_key_file,
    seal,
    unseal,
    wrap,
)

KEY, OTHER_KEY = bytes(KEY_BYTES), bytes([1] * KEY_BYTES)
TASK, RELEASE, PATH = "traffic-sign", 3, "model.onnx"


@pytest.fixture
def vehicle(tmp_path: Path) -> tuple[FileKeyStore, bytes]:
    """A key store and its public key."""
    private_key, public_key = new_key_pair()
    (tmp_path / "sealing.key").write_bytes(private_key)
    return FileKeyStore(tmp_path / "sealing.key"), public_key


@given(st.binary(max_size=200))
def test_a_sealed_file_opens_with_its_key(content: bytes) -> None:
    sealed = seal(KEY, content, TASK, RELEASE, PATH)
    assert len(sealed) == len(content) + OVERHEAD_BYTES
    assert unseal(KEY, sealed, TASK, RELEASE, PATH) == content


def test_equal_files_are_sealed_differently() -> None:
    assert seal(KEY, b"weights", TASK, RELEASE, PATH) != seal(KEY, b"weights", TASK, RELEASE, PATH)


@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_changed_file_does_not_open(content: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(KEY, content, TASK, RELEASE, PATH))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BundleError, match="cannot be unsealed"):
        unseal(KEY, bytes(sealed), TASK, RELEASE, PATH)


@given(st.integers(0, OVERHEAD_BYTES + 6))
def test_a_truncated_file_does_not_open(size_bytes: int) -> None:
    sealed = seal(KEY, b"weights", TASK, RELEASE, PATH)
    with pytest.raises(BundleError, match="cannot be unsealed"):
        unseal(KEY, sealed[:size_bytes], TASK, RELEASE, PATH)


@pytest.mark.parametrize(
    ("key", "task", "release", "path"),
    [
        (OTHER_KEY, TASK, RELEASE, PATH),
        (KEY, "traffic-speed", RELEASE, PATH),
        (KEY, TASK, 4, PATH),
        (KEY, TASK, RELEASE, "model.tflite"),
    ],
)
def test_a_file_opens_only_in_its_own_place(key: bytes, task: str, release: int, path: str) -> None:
    sealed = seal(KEY, b"weights", TASK, RELEASE, PATH)
    with pytest.raises(BundleError, match="cannot be unsealed"):
        unseal(key, sealed, task, release, path)


def test_a_wrapped_key_opens_for_its_vehicle(vehicle: tuple[FileKeyStore, bytes]) -> None:
    store, public_key = vehicle
    wrapped = wrap(KEY, public_key, TASK, RELEASE)
    assert len(wrapped) == WRAPPED_BYTES and KEY not in wrapped
    assert store.unwrap(wrapped, TASK, RELEASE) == KEY


def test_a_key_that_is_wrapped_for_another_does_not_open(vehicle: tuple[FileKeyStore, bytes]) -> None:
    store, public_key = vehicle
    for wrapped, release in (
        (wrap(KEY, new_key_pair()[1], TASK, RELEASE), RELEASE),
        (wrap(KEY, public_key, TASK, RELEASE), RELEASE + 1),
        (wrap(KEY, public_key, "traffic-speed", RELEASE), RELEASE),
        (b"", RELEASE),
        (bytes(WRAPPED_BYTES), RELEASE),
    ):
        with pytest.raises(BundleError, match="was not wrapped for"):
            store.unwrap(wrapped, TASK, release)


def test_a_missing_or_foreign_private_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    with pytest.raises(ConfigError, match=r"sealing\.key"):
        FileKeyStore(path).unwrap(bytes(WRAPPED_BYTES), TASK, RELEASE)
    path.write_bytes(b"no key")
    with pytest.raises(ConfigError, match=r"sealing\.key"):
        FileKeyStore(path).unwrap(bytes(WRAPPED_BYTES), TASK, RELEASE)


def test_a_damaged_key_file_is_told_from_a_sound_one(tmp_path: Path) -> None:
    content = encode_key_file(bytes(range(WRAPPED_BYTES)))
    (tmp_path / KEY_FILE).write_bytes(content)
    assert read_key_file(tmp_path) == bytes(range(WRAPPED_BYTES))
    for damaged in (b"", content[:-1], content + b"x", bytes([content[0] ^ 1]) + content[1:], bytes(len(content))):
        (tmp_path / KEY_FILE).write_bytes(damaged)
        with pytest.raises(BundleError, match="truncated or changed"):
            read_key_file(tmp_path)
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(BundleError, match="is sealed"):
        read_key_file(tmp_path)
