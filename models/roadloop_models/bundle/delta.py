"""Patches: what turns a file that a vehicle has into the next version of it.

The cloud makes them and proves each with `apply_patch`; the vehicle applies them. Of four kinds none is best for all:

- `subtract-zstd`: the difference byte by byte, compressed. Weights that moved in an unchanged layout.
- `sparse-zstd`: of that difference only what is not zero, as gaps and values, each compressed. Few weights that moved:
  zstd spends a bit on every byte that did not.
- `bsdiff4`: the BSDIFF40 format of Colin Percival's bsdiff. Holds where something was inserted.
- `patch-from`: zstd with the old file as its dictionary (`zstd --patch-from`). Long equal stretches.

What is applied is bounded by what the signed target says: the size of the result, and through it the memory (the old
file, the patch and the result). Applying checks no hash: the caller compares the result with what is signed.
"""

import bz2
import io
import struct
from typing import Literal, get_args

import numpy as np
import zstandard

from roadloop_models.errors import BundleError

PatchKind = Literal["subtract-zstd", "sparse-zstd", "bsdiff4", "patch-from"]
KINDS: tuple[PatchKind, ...] = get_args(PatchKind)
MAX_PATCHED_BYTES = 64 << 20
"""Larger files are sent whole: patching holds both versions in memory."""

_LEVEL = 19
_WINDOW_LOG = (20, 27)
_SPARSE_HEADER = struct.Struct("<II")
"""Size of the new file, length of the first frame."""
_LONG_GAP = 255
_CHUNK_BYTES = 1 << 20
_BSDIFF_MAGIC = b"BSDIFF40"
_BSDIFF_HEADER_BYTES = 32
_CONTROL_BYTES = 24
_SIGN = 1 << 63


def patch_name(path: str, base_sha256: str) -> str:
    """The name of the target that makes the file `path` of a release from the one with that SHA-256."""
    return f"{path}.from-{base_sha256[:16]}"


def make_patch(kind: PatchKind, base: bytes, target: bytes) -> bytes:
    """The patch of that kind from `base` to `target`, neither empty nor over MAX_PATCHED_BYTES (else BundleError).

    `bsdiff4` takes 17 times the size of `base` in memory.
    """
    _check_size("the old file", len(base))
    _check_size("the new file", len(target))
    if kind == "subtract-zstd":
        return zstandard.ZstdCompressor(level=_LEVEL).compress(_subtract(base, target))
    if kind == "sparse-zstd":
        return _make_sparse(_subtract(base, target))
    if kind == "patch-from":
        dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=_long_range(base, target)).compress(
            target
        )
    import bsdiff4

    patch: bytes = bsdiff4.diff(base, target)
    return patch


def apply_patch(kind: PatchKind, base: bytes, patch: bytes, size_bytes: int) -> bytes:
    """The file of `size_bytes` that `patch` makes of `base`.

    Raises BundleError where the patch is malformed, or makes a file of another size.
    """
    _check_size("the old file", len(base))
    _check_size("the new file", size_bytes)
    if kind == "subtract-zstd":
        return _add(base, _decompress(zstandard.ZstdDecompressor(), patch, size_bytes))
    if kind == "sparse-zstd":
        return _add(base, _apply_sparse(patch, size_bytes))
    if kind == "patch-from":
        dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return _decompress(zstandard.ZstdDecompressor(dict_data=dictionary), patch, size_bytes)
    return _apply_bsdiff(base, patch, size_bytes)


def _check_size(what: str, size_bytes: int) -> None:
    if not 1 <= size_bytes <= MAX_PATCHED_BYTES:
        raise BundleError(f"patch: {what} has {size_bytes} bytes; 1 to {MAX_PATCHED_BYTES} can be patched")


def _subtract(base: bytes, target: bytes) -> bytes:
    """`target` minus `base` modulo 256; what is beyond the end of `base` stays as it is."""
    difference = np.frombuffer(target, np.uint8).copy()
    both = min(len(base), len(target))
    difference[:both] -= np.frombuffer(base, np.uint8)[:both]
    return difference.tobytes()


def _add(base: bytes, difference: bytes) -> bytes:
    target = np.frombuffer(difference, np.uint8).copy()
    both = min(len(base), len(target))
    target[:both] += np.frombuffer(base, np.uint8)[:both]
    return target.tobytes()


def _make_sparse(difference: bytes) -> bytes:
    """Header, gaps, values. A gap is the number of zeros before a value: as many bytes 255 as it has, and the rest."""
    values = np.frombuffer(difference, np.uint8)
    places = np.flatnonzero(values)
    before = np.diff(places, prepend=-1) - 1
    long, rest = np.divmod(before, _LONG_GAP)
    gaps = np.full(int(long.sum()) + len(places), _LONG_GAP, np.uint8)
    gaps[np.cumsum(long + 1) - 1] = rest
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    first = compressor.compress(gaps.tobytes())
    return _SPARSE_HEADER.pack(len(difference), len(first)) + first + compressor.compress(values[places].tobytes())


def _apply_sparse(patch: bytes, size_bytes: int) -> bytes:
    """The difference. Worked through in chunks, so that the gaps of a dense one take no multiple of the file."""
    if len(patch) < _SPARSE_HEADER.size:
        raise BundleError("patch: sparse-zstd: truncated")
    announced, first_bytes = _SPARSE_HEADER.unpack_from(patch)
    if announced != size_bytes:
        raise BundleError(f"patch: announces a file of {announced} bytes, {size_bytes} are signed")
    end = _SPARSE_HEADER.size + first_bytes
    gaps, values = (
        np.frombuffer(_decompress_at_most(frame, size_bytes), np.uint8)
        for frame in (patch[_SPARSE_HEADER.size : end], patch[end:])
    )
    difference = np.zeros(size_bytes, np.uint8)
    reached = -1
    used = 0
    for start in range(0, len(gaps), _CHUNK_BYTES):
        steps = gaps[start : start + _CHUNK_BYTES].astype(np.int64)
        ends = steps < _LONG_GAP
        steps[ends] += 1
        places = reached + np.cumsum(steps)
        reached = int(places[-1])
        here = values[used : used + int(ends.sum())]
        if reached >= size_bytes or len(here) != ends.sum():
            raise BundleError("patch: sparse-zstd: writes beyond the end of the file, or lacks values")
        difference[places[ends]] = here
        used += len(here)
    if used != len(values):
        raise BundleError("patch: sparse-zstd: has values without a place")
    return difference.tobytes()


def _long_range(base: bytes, target: bytes) -> zstandard.ZstdCompressionParameters:
    """A window over both files, so that every byte of the old one can be referred to."""
    low, high = _WINDOW_LOG
    window_log = min(max((len(base) + len(target)).bit_length(), low), high)
    return zstandard.ZstdCompressionParameters.from_level(_LEVEL, window_log=window_log, enable_ldm=True)


def _decompress_at_most(frame: bytes, max_bytes: int) -> bytes:
    try:
        announced = zstandard.get_frame_parameters(frame).content_size
    except zstandard.ZstdError as error:
        raise BundleError(f"patch: {error}") from error
    if announced > max_bytes:
        raise BundleError(f"patch: announces {announced} bytes in a frame, at most {max_bytes} are read")
    return _decompress(zstandard.ZstdDecompressor(), frame, announced)


def _decompress(decompressor: zstandard.ZstdDecompressor, patch: bytes, size_bytes: int) -> bytes:
    try:
        # The size that the frame announces is what gets allocated, whatever maximum is asked for.
        announced = zstandard.get_frame_parameters(patch).content_size
        if announced != size_bytes:
            raise BundleError(f"patch: announces a file of {announced} bytes, {size_bytes} are signed")
        content = decompressor.decompress(patch, max_output_size=size_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BundleError(f"patch: {error}") from error
    if len(content) != size_bytes:
        raise BundleError(f"patch: makes a file of {len(content)} bytes, {size_bytes} are signed")
    return content


def _apply_bsdiff(base: bytes, patch: bytes, size_bytes: int) -> bytes:
    """BSDIFF40: triples (add, insert, seek) over a stream of differences and one of new bytes, all in bzip2."""
    control, differences, inserted = _bsdiff_streams(patch, size_bytes)
    old = np.frombuffer(base, np.uint8)
    new = np.empty(size_bytes, np.uint8)
    done = position = 0
    # bsdiff writes a triple only after more than eight bytes that do not match.
    for _ in range(size_bytes // 8 + 16):
        if done == size_bytes:
            return new.tobytes()
        add, insert, seek = (_signed(number) for number in struct.unpack("<3Q", _exactly(control, _CONTROL_BYTES)))
        if add < 0 or insert < 0 or add + insert > size_bytes - done:
            raise BundleError("patch: bsdiff4: writes beyond the end of the file")
        new[done : done + add] = np.frombuffer(_exactly(differences, add), np.uint8)
        first, last = max(position, 0), min(position + add, len(old))
        if first < last:
            new[done + first - position : done + last - position] += old[first:last]
        done += add
        new[done : done + insert] = np.frombuffer(_exactly(inserted, insert), np.uint8)
        done += insert
        position += add + seek
    if done == size_bytes:
        return new.tobytes()
    raise BundleError("patch: bsdiff4: more steps than a file of this size takes")


def _bsdiff_streams(patch: bytes, size_bytes: int) -> tuple[io.BufferedIOBase, io.BufferedIOBase, io.BufferedIOBase]:
    header = patch[:_BSDIFF_HEADER_BYTES]
    if len(header) < _BSDIFF_HEADER_BYTES or not header.startswith(_BSDIFF_MAGIC):
        raise BundleError("patch: bsdiff4: does not begin with a BSDIFF40 header")
    control_bytes, difference_bytes, announced = (_signed(number) for number in struct.unpack("<3Q", header[8:]))
    if announced != size_bytes:
        raise BundleError(f"patch: announces a file of {announced} bytes, {size_bytes} are signed")
    body = memoryview(patch)[_BSDIFF_HEADER_BYTES:]
    if control_bytes < 0 or difference_bytes < 0 or control_bytes + difference_bytes > len(body):
        raise BundleError("patch: bsdiff4: truncated")
    end = control_bytes + difference_bytes
    blocks = body[:control_bytes], body[control_bytes:end], body[end:]
    # Read as a stream: a block that expands without end is never expanded.
    control, differences, inserted = (bz2.BZ2File(io.BytesIO(block)) for block in blocks)
    return control, differences, inserted


def _exactly(stream: io.BufferedIOBase, size_bytes: int) -> bytes:
    if size_bytes == 0:
        return b""
    try:
        content = stream.read(size_bytes)
    except (OSError, EOFError, ValueError) as error:
        raise BundleError(f"patch: bsdiff4: {error}") from error
    if len(content) != size_bytes:
        raise BundleError("patch: bsdiff4: truncated")
    return content


def _signed(number: int) -> int:
    """BSDIFF40 has sign and magnitude, not two's complement."""
    return _SIGN - number if number & _SIGN else number
