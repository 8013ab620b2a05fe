"""Patches between two versions of a file: what is made is what applies, and nothing else does harm."""

import bz2
import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.bundle.delta import KINDS, MAX_PATCHED_BYTES, PatchKind, apply_patch, make_patch
from roadloop_models.errors import BundleError

kinds = st.sampled_from(KINDS)
contents = st.binary(min_size=1, max_size=3000)


def noise(size_bytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size_bytes)


def nudged(base: bytes, share: float = 0.1) -> bytes:
    """`base` with some of its bytes one up or down, as a fine-tune does with weights."""
    random = np.random.default_rng(1)
    values = np.frombuffer(base, np.uint8).copy()
    moved = random.random(len(values)) < share
    values[moved] += random.choice(np.array([1, 255], np.uint8), int(moved.sum()))
    return values.tobytes()


@given(kinds, contents, contents)
def test_every_kind_turns_any_file_into_any_other(kind: PatchKind, base: bytes, target: bytes) -> None:
    assert apply_patch(kind, base, make_patch(kind, base, target), len(target)) == target


@given(kinds, contents, st.integers(0, 3000), contents)
def test_every_kind_follows_what_was_inserted(kind: PatchKind, base: bytes, at: int, inserted: bytes) -> None:
    target = base[:at] + inserted + base[at:]
    assert apply_patch(kind, base, make_patch(kind, base, target), len(target)) == target


@given(kinds, contents, st.binary(max_size=500), st.integers(1, 4000))
def test_noise_is_refused_or_makes_a_file_of_the_signed_size(
    kind: PatchKind, base: bytes, patch: bytes, size_bytes: int
) -> None:
    try:
        made = apply_patch(kind, base, patch, size_bytes)
    except BundleError:
        return
    assert len(made) == size_bytes


@given(kinds, contents, contents, st.data())
def test_a_damaged_patch_is_refused_or_makes_a_file_of_the_signed_size(
    kind: PatchKind, base: bytes, target: bytes, data: st.DataObject
) -> None:
    patch = bytearray(make_patch(kind, base, target))
    patch[data.draw(st.integers(0, len(patch) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        made = apply_patch(kind, base, bytes(patch), len(target))
    except BundleError:
        return
    assert len(made) == len(target)


@given(kinds, contents, contents, st.data())
def test_a_truncated_patch_is_refused_or_makes_the_same_file(
    kind: PatchKind, base: bytes, target: bytes, data: st.DataObject
) -> None:
    patch = make_patch(kind, base, target)
    cut = patch[: data.draw(st.integers(0, len(patch) - 1))]
    with contextlib.suppress(BundleError):  # the end of a bzip2 stream is not always needed
        assert apply_patch(kind, base, cut, len(target)) == target


@given(kinds, contents, contents, st.integers(1, 5000))
def test_a_patch_for_another_size_is_refused(kind: PatchKind, base: bytes, target: bytes, size_bytes: int) -> None:
    if size_bytes != len(target):
        with pytest.raises(BundleError, match="announces"):
            apply_patch(kind, base, make_patch(kind, base, target), size_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_files_take_next_to_nothing(kind: PatchKind) -> None:
    base = noise(100_000)
    assert len(make_patch(kind, base, base)) < 500


@pytest.mark.parametrize(
    ("kind", "share"), [("subtract-zstd", 0.2), ("sparse-zstd", 0.1), ("bsdiff4", 0.2), ("patch-from", 0.5)]
)
def test_weights_that_moved_a_little_take_a_part(kind: PatchKind, share: float) -> None:
    base = noise(100_000)
    assert len(make_patch(kind, base, nudged(base))) < share * len(base)


@pytest.mark.parametrize("kind", ["bsdiff4", "patch-from"])
def test_a_shifted_layout_takes_next_to_nothing(kind: PatchKind) -> None:
    base = noise(100_000)
    assert len(make_patch(kind, base, base[:50_000] + b"a new tensor" + base[50_000:])) < 600


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(0, 10), (10, 0), (MAX_PATCHED_BYTES + 1, 10), (10, MAX_PATCHED_BYTES + 1)])
def test_empty_and_large_files_are_not_patched(kind: PatchKind, sizes: tuple[int, int]) -> None:
    base, target = sizes
    with pytest.raises(BundleError, match="can be patched"):
        apply_patch(kind, bytes(base), b"", target)
    with pytest.raises(BundleError, match="can be patched"):
        make_patch(kind, bytes(base), bytes(target))


# What a hostile patch may try.


def bsdiff(controls: list[tuple[int, int, int]], differences: bytes, inserted: bytes, size_bytes: int) -> bytes:
    """A BSDIFF40 file with these triples."""
    control = b"".join(struct.pack("<3Q", *(_stored(number) for number in triple)) for triple in controls)
    blocks = [bz2.compress(block) for block in (control, differences, inserted)]
    header = struct.pack("<3Q", len(blocks[0]), len(blocks[1]), _stored(size_bytes))
    return b"BSDIFF40" + header + b"".join(blocks)


def _stored(number: int) -> int:
    return number if number >= 0 else (1 << 63) | -number


def test_bsdiff_reads_zeros_outside_of_the_old_file() -> None:
    patch = bsdiff([(0, 0, -3), (8, 2, 0)], bytes(range(8)), b"xy", 10)
    assert apply_patch("bsdiff4", b"\x0a\x0b", patch, 10) == bytes([0, 1, 2, 3 + 10, 4 + 11, 5, 6, 7]) + b"xy"


@pytest.mark.parametrize(
    ("controls", "match"),
    [
        ([(11, 0, 0)], "beyond the end"),
        ([(5, 6, 0)], "beyond the end"),
        ([(-1, 5, 0)], "beyond the end"),
        ([(5, -1, 0)], "beyond the end"),
        ([((1 << 62), 0, 0)], "beyond the end"),
        ([(5, 0, 0)], "truncated"),
        ([(0, 0, 0)] * 1000, "more steps"),
        ([], "truncated"),
    ],
)
def test_bsdiff_never_writes_beyond_the_size(controls: list[tuple[int, int, int]], match: str) -> None:
    with pytest.raises(BundleError, match=match):
        apply_patch("bsdiff4", bytes(10), bsdiff(controls, bytes(20), bytes(20), 10), 10)


def test_bsdiff_does_not_expand_what_it_does_not_need() -> None:
    """32 MiB in each block, behind a file of ten bytes."""
    bomb = bz2.compress(bytes(1 << 25))
    control = bz2.compress(struct.pack("<3Q", 5, 5, 0) + bytes(1 << 25))
    header = struct.pack("<3Q", len(control), len(bomb), 10)
    patch = b"BSDIFF40" + header + control + bomb + bomb
    tracemalloc.start()
    try:
        assert apply_patch("bsdiff4", bytes(10), patch, 10) == bytes(10)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("numbers", [(1 << 40, 0, 10), (0, 1 << 40, 10), (_stored(-5), 5, 10)])
def test_bsdiff_refuses_blocks_that_it_does_not_hold(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(BundleError, match="truncated"):
        apply_patch("bsdiff4", bytes(10), b"BSDIFF40" + struct.pack("<3Q", *numbers), 10)


def sparse(gaps: bytes, values: bytes, size_bytes: int) -> bytes:
    """A sparse patch of these streams."""
    first, second = (zstandard.ZstdCompressor().compress(stream) for stream in (gaps, values))
    return struct.pack("<II", size_bytes, len(first)) + first + second


def test_sparse_gaps_go_on_over_255() -> None:
    patch = sparse(bytes([255, 255, 3, 0]), b"xy", 520)
    assert apply_patch("sparse-zstd", bytes(600), patch, 520) == bytes(513) + b"xy" + bytes(5)


@pytest.mark.parametrize(
    ("gaps", "values", "match"),
    [
        (bytes([10]), b"x", "beyond the end"),
        (bytes([255]), b"", "beyond the end"),
        (bytes([0] * 10), b"x" * 9, "lacks values"),
        (bytes([0]), b"xy", "without a place"),
        (bytes(1 << 20), b"x", "at most 10 are read"),
        (b"", b"x" * 11, "at most 10 are read"),
    ],
)
def test_sparse_never_writes_beyond_the_size(gaps: bytes, values: bytes, match: str) -> None:
    with pytest.raises(BundleError, match=match):
        apply_patch("sparse-zstd", bytes(10), sparse(gaps, values, 10), 10)


@pytest.mark.parametrize("kind", ["subtract-zstd", "patch-from"])
def test_zstd_does_not_expand_beyond_the_signed_size(kind: PatchKind) -> None:
    """The frame announces more than it may, or does not say what it holds."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10))
    for patch in (bomb, unsaid):
        with pytest.raises(BundleError, match="announces"):
            apply_patch(kind, bytes(10), patch, 10)
    good = zstandard.ZstdCompressor().compress(bytes(10))
    with pytest.raises(BundleError):
        apply_patch(kind, bytes(10), good + good, 10)
