"""A sketch of one signal, in bytes: counts in the reference's bins, sums, and a KLL sketch. Sketches merge.

KLL (Karnin, Lang, Liberty 2016; the implementation of Apache DataSketches) keeps any quantile within 1.9 % of its rank
in about 1 kB, whatever the number of rows. The library is loaded with the first value: link starts without it.
"""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from roadloop_models.contract.messages import SignalSketch
from roadloop_models.errors import MessageError
from roadloop_models.sketches.kll_layout import check_kll
from roadloop_models.sketches.reference import bin_counts

if TYPE_CHECKING:
    from datasketches import kll_floats_sketch

FloatArray = npt.NDArray[np.float64]
KLL_K = 128
_LARGEST = 1e30
"""What is beyond it is taken for unknown: it would be infinite as a float32."""


class ValueSketch:
    """One signal of one slot. Owned by one thread."""

    def __init__(self, name: str, edges: npt.ArrayLike = ()) -> None:
        """`edges` [bins - 1] of the reference; none: no counts are kept."""
        self.name = name
        self._edges = np.asarray(edges, dtype=np.float64)
        self.counts = np.zeros(len(self._edges) + 1 if len(self._edges) else 0, dtype=np.int64)
        self.rows = 0
        self.unknown = 0
        self.total = 0.0
        self._kll: kll_floats_sketch | None = None

    def add(self, values: npt.ArrayLike) -> None:
        """Take values [n]; what is not finite counts as unknown."""
        table = np.asarray(values, dtype=np.float64)
        known = table[np.abs(table) < _LARGEST]  # false for NaN
        self.unknown += len(table) - len(known)
        if not len(known):
            return
        self.rows += len(known)
        self.total += float(known.sum())
        if len(self.counts):
            self.counts += bin_counts(self._edges, known.astype(np.float32))
        self._sketch().update(known.astype(np.float32))

    def merge(self, sent: SignalSketch) -> None:
        """Take another sketch of the same signal and bins. Raises MessageError where it does not fit or is damaged."""
        kll = decode_kll(sent)
        if sent.counts and len(sent.counts) != len(self.counts):
            raise MessageError(f"sketch of '{self.name}': {len(sent.counts)} bins, expected {len(self.counts)}")
        if sent.counts:
            self.counts += np.asarray(sent.counts, dtype=np.int64)
        self.rows += sent.rows
        self.unknown += sent.unknown
        self.total += sent.total
        if kll is not None:
            self._sketch().merge(kll)

    def message(self) -> SignalSketch:
        """As it is sent."""
        kll = b"" if self._kll is None else bytes(self._kll.serialize())
        return SignalSketch(
            name=self.name,
            rows=self.rows,
            unknown=self.unknown,
            total=self.total,
            counts=tuple(self.counts.tolist()),
            kll=kll,
        )

    @property
    def mean(self) -> float:
        """Exact; NaN without rows."""
        return self.total / self.rows if self.rows else math.nan

    def quantiles(self, count: int) -> FloatArray | None:
        """Values at `count` equal steps of rank, from the least to the greatest; None without rows."""
        if self._kll is None:
            return None
        return np.asarray(self._kll.get_quantiles(np.linspace(0, 1, count).tolist()), dtype=np.float64)

    def _sketch(self) -> "kll_floats_sketch":
        if self._kll is None:
            self._kll = _library().kll_floats_sketch(KLL_K)
        return self._kll


def decode_kll(sent: SignalSketch) -> "kll_floats_sketch | None":
    """The quantile sketch of a message; None where it has no rows. Raises MessageError where it is damaged or lies.

    Counts and quantile sketch are about the same rows: a sender that says otherwise is not believed.
    """
    if sent.counts and sum(sent.counts) != sent.rows:
        raise MessageError(f"sketch of '{sent.name}': {sum(sent.counts)} rows in bins, {sent.rows} in all")
    if not sent.rows and not sent.kll:
        return None
    try:
        check_kll(sent.kll, KLL_K, sent.rows)
        kll = _library().kll_floats_sketch.deserialize(sent.kll)
        sound = kll.k == KLL_K and kll.n == sent.rows and _within(kll, sent)
    except (IndexError, RuntimeError, ValueError, MemoryError) as error:
        raise MessageError(f"sketch of '{sent.name}': {error}") from error
    if not sound:
        raise MessageError(f"sketch of '{sent.name}': its quantiles are not those of {sent.rows} rows")
    return kll


def _within(kll: "kll_floats_sketch", sent: SignalSketch) -> bool:
    low, high = kll.get_min_value(), kll.get_max_value()
    slack = 1e-3 * (1.0 + max(abs(low), abs(high))) * sent.rows
    finite = math.isfinite(low) and math.isfinite(high) and math.isfinite(sent.total)
    return finite and low <= high and low * sent.rows - slack <= sent.total <= high * sent.rows + slack


def _library() -> Any:
    import datasketches

    return datasketches
