"""The layout of a serialized KLL sketch of floats, checked before the library reads it: of bytes that contradict
themselves it may read and write past the end of its memory.

Apache DataSketches, kll_sketch_impl.hpp: a preamble of 20 bytes, where each level begins, least and largest value, and
the values of all levels; of a single value 8 bytes and the value.
"""

import struct
from itertools import pairwise

_FAMILY, _M, _MOST_LEVELS = 15, 8, 60
_SORTED, _SINGLE = 2, 4
_FLOAT_BYTES = 4


def check_kll(raw: bytes, k: int, rows: int) -> None:
    """Raises ValueError where these are not the bytes of a sketch of `rows` values with parameter `k`."""
    if rows == 1:
        sound = len(raw) == 8 + _FLOAT_BYTES and _begins(raw, 2, 2, _SINGLE, k)
    else:
        sound = len(raw) > 20 and _begins(raw, 5, 1, 0, k) and _levels_hold(raw, k, rows)
    if not sound:
        raise ValueError(f"its {len(raw)} bytes are no quantile sketch of {rows} rows")


def _begins(raw: bytes, preamble: int, version: int, flags: int, k: int) -> bool:
    found = struct.unpack_from("<BBBBHB", raw)
    return found[3] & ~_SORTED == flags and found[:3] + found[4:] == (preamble, version, _FAMILY, k, _M)


def _levels_hold(raw: bytes, k: int, rows: int) -> bool:
    count, least_k, levels = struct.unpack_from("<QHB", raw, 8)
    if (count, least_k) != (rows, k) or not 1 <= levels <= _MOST_LEVELS or len(raw) < 20 + 4 * levels:
        return False
    starts = (*struct.unpack_from(f"<{levels}I", raw, 20), _capacity(k, levels))
    lengths = [end - start for start, end in pairwise(starts)]
    size = 20 + 4 * levels + _FLOAT_BYTES * (2 + sum(lengths))
    weight = sum(length << level for level, length in enumerate(lengths))
    return bool(min(lengths) >= 0 and weight == rows and len(raw) == size)


def _capacity(k: int, levels: int) -> int:
    """How many values all levels have room for: each two thirds of the next, and at least eight."""
    return sum(max(_M, _level_capacity(k, depth)) for depth in range(levels))


def _level_capacity(k: int, depth: int) -> int:
    if depth > 30:
        return _level_capacity(_level_capacity(k, depth // 2), depth - depth // 2)
    return int((2 * k << depth) // 3**depth + 1) >> 1
