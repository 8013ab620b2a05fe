"""A release's reference: how its signals were distributed where it was made. `reference.json` in the bundle.

Its bins are fixed: every vehicle counts into the same ones, so that counts add up. Rows are not independent (frames of
one track, steps of one hour): the *design effect* (Kish 1965) says how many of them are worth one independent row, and
comes from how much the blocks of dependent rows differ:

    design effect = rows per block * sum_j Var_b(F_b(e_j)) / sum_j F(e_j) (1 - F(e_j))

with F_b the distribution of one block at the edges e_j of the bins and F that of all rows. Equal blocks are assumed;
for unequal ones a block's distribution is weighted by its rows.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from roadloop_models.errors import BundleError
from roadloop_models.sketches.signals import SIGNALS, Signal
from roadloop_models.typed import from_json

FloatArray = npt.NDArray[np.float64]
BINS = 32
MAX_BINS = 256
MAX_REFERENCE_BYTES = 256 * 1024
REFERENCE_FILE = "reference.json"
_QUANTILES = 65
LEAST_BLOCKS = 4
"""Fewer blocks say nothing about how blocks differ."""


class SignalReference(msgspec.Struct, frozen=True, kw_only=True):
    """How one signal was distributed."""

    edges: Annotated[tuple[float, ...], msgspec.Meta(min_length=1, max_length=MAX_BINS - 1)]
    """Ascending. Bin i holds what is above edge i - 1 and at most edge i; the first and the last bin are open."""
    counts: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=2, max_length=MAX_BINS)]
    quantiles: Annotated[tuple[float, ...], msgspec.Meta(min_length=2, max_length=1025)]
    """At equal steps from the least to the greatest value."""
    mean: float
    design_effect: Annotated[float, msgspec.Meta(ge=1)]
    blocks: Annotated[int, msgspec.Meta(ge=0)]

    @property
    def rows(self) -> int:
        """How many rows were known."""
        return sum(self.counts)


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Signal -> its distribution. Unknown fields are tolerated: a newer cloud may add some."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    task: str
    signals: dict[str, SignalReference]


def make_reference(
    task: str, rows: npt.ArrayLike, blocks: Mapping[str, npt.NDArray[np.int64]], watched: Sequence[Signal] | None = None
) -> Reference:
    """From rows [n, signals] in the order of the task's signals, and for each kind of block the rows' block ids [n].

    A signal that is known in too few rows, or in too few blocks, has no reference: nothing could be said about it.
    """
    # Sketches hold float32: a value that repeats must fall on the same side of an edge here and there.
    values = np.asarray(rows, dtype=np.float32).astype(np.float64)
    signals = SIGNALS[task] if watched is None else watched
    made: dict[str, SignalReference] = {}
    for index, signal in enumerate(signals):
        ids = blocks.get(signal.block)
        known = np.isfinite(values[:, index])
        if ids is None or not known.any():
            continue
        one = _signal(signal, values[known, index], ids[known])
        if one is not None:
            made[signal.name] = one
    return Reference(task=task, signals=made)


def encode_reference(reference: Reference) -> bytes:
    """Canonical JSON, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(reference, order="deterministic"), indent=1) + b"\n"


def decode_reference(raw: bytes, name: str = REFERENCE_FILE) -> Reference:
    """Raises BundleError where it is oversize, malformed or inconsistent."""
    if len(raw) > MAX_REFERENCE_BYTES:
        raise BundleError(f"{name}: {len(raw)} bytes, at most {MAX_REFERENCE_BYTES} are read")
    try:
        reference = from_json(raw, Reference)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{name}: {error}") from error
    for signal, one in reference.signals.items():
        numbers = (*one.edges, *one.quantiles, one.mean, one.design_effect)
        if not all(map(math.isfinite, numbers)) or any(np.diff(one.edges) <= 0) or any(np.diff(one.quantiles) < 0):
            raise BundleError(f"{name}: {signal}: edges and quantiles have to be finite and to ascend")
        if len(one.counts) != len(one.edges) + 1 or not one.rows:
            raise BundleError(f"{name}: {signal}: {len(one.counts)} counts for {len(one.edges)} edges")
    return reference


def read_reference(path: Path) -> Reference:
    """From a file. Raises BundleError where it cannot be read, or as `decode_reference` does."""
    try:
        with path.open("rb") as file:
            return decode_reference(file.read(MAX_REFERENCE_BYTES + 1), str(path))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error


def bundle_reference(bundle_dir: str | Path) -> Reference | None:
    """That of a bundle, whose files were checked when it was opened; None where it was made without one."""
    path = Path(bundle_dir) / REFERENCE_FILE
    return read_reference(path) if path.exists() else None


def bin_counts(edges: npt.ArrayLike, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """How many of the finite values fall in each bin: int64 [edges + 1]."""
    limits = np.asarray(edges, dtype=np.float64)
    return np.bincount(np.searchsorted(limits, np.asarray(values, dtype=np.float64)), minlength=len(limits) + 1)


def _signal(signal: Signal, values: FloatArray, ids: npt.NDArray[np.int64]) -> SignalReference | None:
    edges = _class_edges(values) if signal.kind == "class" else _quantile_edges(values)
    names, inverse, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    if len(names) < LEAST_BLOCKS or not len(edges):
        return None
    bins = len(edges) + 1
    cells = inverse.reshape(-1) * bins + np.searchsorted(edges, values)
    of_blocks = np.bincount(cells, minlength=len(names) * bins).reshape(len(names), bins)
    return SignalReference(
        edges=tuple(edges.tolist()),
        counts=tuple(of_blocks.sum(axis=0).tolist()),
        quantiles=tuple(np.quantile(values, np.linspace(0, 1, _QUANTILES)).tolist()),
        mean=float(values.mean()),
        design_effect=_design_effect(of_blocks.cumsum(axis=1)[:, :-1].astype(np.float64), sizes.astype(np.float64)),
        blocks=len(names),
    )


def _design_effect(below: FloatArray, sizes: FloatArray) -> float:
    """`below` [blocks, edges]: how many rows of each block are at most each edge; `sizes` [blocks]. At least 1.

    The ratio estimator of a mean over clusters of unequal size (Cochran 1977, 6.3), over the variance of as many
    independent rows.
    """
    rows, blocks = sizes.sum(), len(sizes)
    share = below.sum(axis=0) / rows
    residual = below - sizes[:, np.newaxis] * share
    clustered = blocks / (blocks - 1) * np.square(residual).sum(axis=0) / rows**2
    independent = share * (1.0 - share) / rows
    return max(1.0, float(clustered.sum() / max(independent.sum(), 1e-300)))


def _quantile_edges(values: FloatArray) -> FloatArray:
    """Bins that are equally full; fewer where values repeat. Rounded to float32, as sketches keep them."""
    inner = np.quantile(values, np.arange(1, BINS) / BINS)
    edges: FloatArray = np.unique(inner.astype(np.float32)).astype(np.float64)
    return edges


def _class_edges(values: FloatArray) -> FloatArray:
    """A bin for each whole number from 0 to the greatest seen, and one for those above."""
    top = min(int(max(values.max(), 0)), MAX_BINS - 3)
    return np.arange(top + 1, dtype=np.float64) + 0.5
