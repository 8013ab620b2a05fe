"""The block assembler: what it asks for, what it believes, and when it gives up."""

import hashlib
import random
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError, LengthOrHashMismatchError

from roadloop_agent.update.blocks import FIRST_BLOCKS, Assembler, block_count
from roadloop_models.contract.channels import BLOCK_BYTES
from roadloop_models.contract.messages import FetchRequest, FileBlock
from roadloop_models.errors import FetchInterruptedError

PATH = "targets/traffic-sign/2/model.onnx"
CONTENT = random.Random(0).randbytes(5 * BLOCK_BYTES + 100)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def block(n: int, content: bytes = CONTENT, path: str = PATH) -> FileBlock:
    data = content[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES]
    return FileBlock(path=path, size_bytes=len(content), crc32=zlib.crc32(data), data=data)


def target(**changes: object) -> Assembler:
    arguments: dict[str, object] = {"sha256": SHA256, "size_bytes": len(CONTENT), "max_bytes": len(CONTENT)}
    return Assembler(PATH, now_s=0.0, **{**arguments, **changes})  # type: ignore[arg-type]


def metadata(max_bytes: int = 1 << 20) -> Assembler:
    return Assembler(PATH, now_s=0.0, max_bytes=max_bytes)


def asked(request: FetchRequest | None) -> list[int]:
    return [n for first, last in request.blocks for n in range(first, last + 1)] if request else []


def test_asks_for_what_is_missing_only() -> None:
    request = target(have={0, 1, 4}).request(0.0)
    assert request == FetchRequest(path=PATH, sha256=SHA256, blocks=((2, 3), (5, 5)))


def test_keeps_a_bounded_number_of_blocks_under_way() -> None:
    size_bytes = 100 * BLOCK_BYTES
    assembler = target(size_bytes=size_bytes, max_bytes=size_bytes, window_blocks=8)
    assert asked(assembler.request(0.0)) == list(range(8))
    assert assembler.request(0.1) is None


def test_metadata_is_asked_for_before_its_size_is_known() -> None:
    assembler = metadata()
    assert asked(assembler.request(0.0)) == list(range(FIRST_BLOCKS))
    for n in range(6):
        assert assembler.accept(SHA256, n, block(n), 0.1) == block(n).data
    assert assembler.done and assembler.sha256 == SHA256


def test_what_is_lost_is_asked_for_again_after_a_silence_that_doubles() -> None:
    assembler = target(timeout_s=1.0, give_up_s=100.0)
    assembler.request(0.0)
    assembler.accept(SHA256, 3, block(3), 0.5)
    assert assembler.request(1.4) is None and assembler.wait_s(1.4) == pytest.approx(0.1)
    assert asked(assembler.request(1.5)) == [0, 1, 2, 4, 5]
    assert assembler.request(3.4) is None
    assert asked(assembler.request(3.5)) == [0, 1, 2, 4, 5]


def test_blocks_that_come_seldom_are_waited_for_longer() -> None:
    size_bytes = 40 * BLOCK_BYTES
    assembler = target(size_bytes=size_bytes, max_bytes=size_bytes, timeout_s=4.0, give_up_s=1000.0)
    content = bytes(size_bytes)
    now_s, asked_again = 0.0, 0
    assembler.request(now_s)
    for n in range(16):
        for _ in range(5):  # a block every five seconds, looked at every second
            now_s += 1.0
            asked_again += assembler.request(now_s) is not None
        assembler.accept(SHA256, n, block(n, content), now_s)
    assert asked_again <= 3, "and not after every four seconds"
    assert assembler.wait_s(now_s) > 10.0


def test_a_new_connection_repeats_what_was_under_way_at_once() -> None:
    assembler = target()
    assembler.request(0.0)
    assembler.accept(SHA256, 0, block(0), 0.1)
    assert assembler.request(0.2) is None
    assembler.repeat()
    assert asked(assembler.request(0.2)) == [1, 2, 3, 4, 5]


def test_gives_up_after_a_long_silence() -> None:
    assembler = target(give_up_s=10.0)
    assembler.request(0.0)
    assembler.request(9.9)
    with pytest.raises(FetchInterruptedError, match="no block came for 10 s"):
        assembler.request(10.0)


@pytest.mark.parametrize(
    "wrong",
    [
        msgspec.structs.replace(block(0), crc32=1),
        msgspec.structs.replace(block(0), data=block(0).data[:-1]),
        msgspec.structs.replace(block(0), path="targets/other"),
        msgspec.structs.replace(block(0), data=block(1).data),
    ],
    ids=["crc", "short", "other-path", "other-data"],
)
def test_an_unsound_block_counts_as_lost(wrong: FileBlock) -> None:
    assembler = target()
    assembler.request(0.0)
    assert assembler.accept(SHA256, 0, wrong, 0.1) is None and not assembler.have
    assert assembler.accept(SHA256, 99, block(0), 0.1) is None
    assert assembler.accept(SHA256, 0, block(0), 0.1) == block(0).data
    assert assembler.accept(SHA256, 0, block(0), 0.1) is None, "a second copy"


@pytest.mark.parametrize("size_bytes", [0, len(CONTENT) - 1, len(CONTENT) + 1, 1 << 40])
def test_another_size_than_the_signed_one_ends_the_download(size_bytes: int) -> None:
    with pytest.raises(DownloadLengthMismatchError, match="were expected"):
        target().accept(SHA256, 0, msgspec.structs.replace(block(0), size_bytes=size_bytes), 0.0)


@pytest.mark.parametrize("size_bytes", [0, (1 << 20) + 1, 1 << 40])
def test_oversize_metadata_ends_the_download(size_bytes: int) -> None:
    with pytest.raises(DownloadLengthMismatchError, match="at most 1048576 are read"):
        metadata().accept(SHA256, 0, msgspec.structs.replace(block(0), size_bytes=size_bytes), 0.0)


def test_another_content_in_place_of_a_target_ends_the_download() -> None:
    with pytest.raises(LengthOrHashMismatchError):
        target().accept("0" * 64, 0, block(0), 0.0)


def test_a_missing_file_is_like_http_404() -> None:
    with pytest.raises(DownloadHTTPError) as caught:
        metadata().accept("0" * 64, 0, FileBlock(path=PATH, size_bytes=0, crc32=0, data=b"", missing=True), 0.0)
    assert caught.value.status_code == 404


def test_metadata_that_is_replaced_meanwhile_begins_anew() -> None:
    newer = random.Random(1).randbytes(2 * BLOCK_BYTES)
    newer_sha256 = hashlib.sha256(newer).hexdigest()
    assembler = metadata()
    assembler.request(0.0)
    assembler.accept(SHA256, 0, block(0), 0.1)
    for n in range(2):
        assert assembler.accept(newer_sha256, n, block(n, newer), 0.2) is not None
    assert assembler.done and (assembler.sha256, assembler.size_bytes) == (newer_sha256, len(newer))


@given(size_bytes=st.integers(1, 20 * BLOCK_BYTES), seed=st.integers(0, 1 << 30), known=st.booleans())
def test_any_loss_and_order_ends_with_the_whole_file(size_bytes: int, seed: int, known: bool) -> None:
    rng = random.Random(seed)
    content = bytes(size_bytes)
    sha256 = hashlib.sha256(content).hexdigest()
    pinned: dict[str, object] = {"sha256": sha256, "size_bytes": size_bytes} if known else {}
    assembler = Assembler(PATH, now_s=0.0, max_bytes=size_bytes, give_up_s=1e9, window_blocks=4, **pinned)  # type: ignore[arg-type]
    now_s, under_way, got = 0.0, [], 0
    while not assembler.done:
        request = assembler.request(now_s)
        under_way += [n for n in asked(request) if rng.random() < 0.7 and n * BLOCK_BYTES < size_bytes]
        rng.shuffle(under_way)
        if under_way:
            n = under_way.pop()
            got += assembler.accept(sha256, n, block(n, content), now_s) is not None
        else:
            assert assembler.wait_s(now_s) > 0 or request is not None
            now_s += assembler.wait_s(now_s)
    assert got == block_count(size_bytes)
