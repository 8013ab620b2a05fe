"""The judgement itself: a pure function of what was seen of two models on the same held-out rows."""

from dataclasses import dataclass

import numpy as np

from roadloop_cloud.gate.bootstrap import Comparison, compare
from roadloop_cloud.gate.bounds import Bounds
from roadloop_cloud.gate.figures import Examined, GateResult, Seen, Verdict
from roadloop_models.tasks import Evaluation, Task

_ALL = "all rows"
_SHOWN_SLICES = 3


def judge(task: Task, incumbent: Examined, candidate: Examined, bounds: Bounds) -> Verdict:
    """Compare variant by variant; a vehicle runs only one of them, so each must pass every gate."""
    missing = sorted(set(incumbent) - set(candidate))
    common = sorted(set(incumbent) & set(candidate))
    gates = [
        GateResult(
            gate="variants",
            passed=not missing and bool(common),
            detail=f"has no {', '.join(missing)}, which vehicles run" if missing else f"{', '.join(common)} are there",
        )
    ]
    pairs = [_Pair(task, key, incumbent[key], candidate[key], bounds) for key in common]
    for pair in pairs:
        gates += pair.gates()
    deciding = min(pairs, key=lambda pair: pair.gain, default=None)
    return Verdict(gates=tuple(gates), deciding="" if deciding is None else deciding.key)


@dataclass(frozen=True)
class _Pair:
    """One variant of both models."""

    task: Task
    key: str
    now: Seen
    new: Seen
    bounds: Bounds

    @property
    def gain(self) -> float:
        """By how much the candidate's metric is better."""
        difference = self.new.figures.metrics[self.task.metric] - self.now.figures.metrics[self.task.metric]
        return difference if self.task.higher_is_better else -difference

    def gates(self) -> list[GateResult]:
        same = self._same_rows(f"same-rows {self.key}", self.now.evaluation, self.new.evaluation)
        if not same.passed:
            return [same]
        slices = self.now.evaluation.slices
        masks = _everything(self.now.evaluation)
        for kind, labels in slices.items():
            masks |= {f"{kind} {label}": labels == label for label in np.unique(labels)}
        found = self._compare(self.now.evaluation, self.new.evaluation, masks)
        gates = [same, self._better(found[_ALL])]
        for kind in slices:
            gates.append(self._slices(kind, {name: one for name, one in found.items() if name.startswith(f"{kind} ")}))
        if self.now.figures.ece is not None and self.new.figures.ece is not None:
            gates.append(self._calibration(self.now.figures.ece, self.new.figures.ece))
        return [*gates, *(self._disturbed(name) for name in self.now.disturbed), self._size()]

    def _compare(self, now: Evaluation, new: Evaluation, masks: "_Masks") -> dict[str, Comparison]:
        return compare(now, new, masks, resamples=self.bounds.resamples, seed=self.bounds.seed)

    @staticmethod
    def _same_rows(gate: str, now: Evaluation, new: Evaluation) -> GateResult:
        if now.losses is None or new.losses is None:
            detail, passed = "the task tells no loss of each row, so nothing is sure", False
        elif now.rows != new.rows or len(now.losses) != len(new.losses):
            detail, passed = f"{now.rows} and {new.rows} rows cannot be compared", False
        elif unfit := int((~np.isfinite(new.losses)).sum()):
            detail, passed = f"on {unfit} of {len(new.losses)} rows the candidate's loss is not finite", False
        elif other := sorted(set(now.slices) ^ set(new.slices)):
            detail, passed = f"only one of them was evaluated with slices of {', '.join(other)}; evaluate again", False
        else:
            detail, passed = f"{new.rows} rows", True
        return GateResult(gate=gate, passed=passed, detail=detail)

    def _better(self, found: Comparison) -> GateResult:
        bounds, metric, gain = self.bounds, self.task.metric, self.gain
        before, after = self.now.figures.metrics[metric], self.new.figures.metrics[metric]
        direction = "better" if gain > 0 else "worse" if gain < 0 else "no better"
        by = f" by {abs(gain):.5g}" if gain else ""
        least = found.least_gain(bounds.confidence)
        passed = gain > bounds.margin and least > bounds.margin
        sure = f", {bounds.confidence:.0%} sure of {least:.3g}" if gain > 0 else ""
        needed = "" if passed else f", needed more than {bounds.margin:g}"
        return GateResult(
            gate=f"better {self.key}",
            passed=passed,
            detail=f"{metric} {after:.5g} is {direction} than {before:.5g}{by}{sure}{needed} "
            f"({found.rows} rows count as {found.independent:.0f})",
        )

    def _slices(self, kind: str, found: dict[str, Comparison]) -> GateResult:
        """No slice that has enough rows is worse by more than the bound, as far as that is sure."""
        bounds, gate = self.bounds, f"slices {kind} {self.key}"
        judged = {name: one for name, one in found.items() if one.independent >= bounds.least_independent}
        if not judged:
            detail = f"no {kind} has {bounds.least_independent:g} independent rows"
            return GateResult(gate=gate, passed=True, detail=detail)
        losses = {name: one.least_loss(bounds.slice_confidence) for name, one in judged.items()}
        bad = sorted((name for name in judged if losses[name] > bounds.slice_worse), key=lambda name: -losses[name])
        if bad:
            shown = "; ".join(
                f"'{name}' is worse by {-judged[name].gain:.3g} ({judged[name].before:.4g} to {judged[name].after:.4g} "
                f"on {judged[name].rows} rows), {bounds.slice_confidence:.0%} sure of {losses[name]:.3g}"
                for name in bad[:_SHOWN_SLICES]
            )
            more = f" and {len(bad) - _SHOWN_SLICES} more" if len(bad) > _SHOWN_SLICES else ""
            return GateResult(gate=gate, passed=False, detail=f"{shown}{more}; bound {bounds.slice_worse:g}")
        least = min(judged, key=lambda name: judged[name].gain)
        return GateResult(
            gate=gate,
            passed=True,
            detail=f"{len(judged)} of {len(found)} have rows enough; the least gain is that of '{least}', "
            f"{_signed(judged[least].gain)} on {judged[least].rows} rows; bound {bounds.slice_worse:g} worse",
        )

    def _calibration(self, before: float, after: float) -> GateResult:
        return GateResult(
            gate=f"calibration {self.key}",
            passed=after <= before + self.bounds.ece_worse,
            detail=f"expected calibration error {after:.3g} after {before:.3g}; bound {self.bounds.ece_worse:g} worse",
        )

    def _disturbed(self, name: str) -> GateResult:
        """Whether it bears a disturbance about as well as the incumbent."""
        gate, bounds, now = f"robust {name} {self.key}", self.bounds, self.now.disturbed[name]
        new = self.new.disturbed.get(name)
        if new is None:
            return GateResult(gate=gate, passed=False, detail="was not evaluated")
        same = self._same_rows(gate, now, new)
        if not same.passed:
            return same
        found = self._compare(now, new, _everything(now))[_ALL]
        sure = found.least_loss(bounds.slice_confidence)
        return GateResult(
            gate=gate,
            passed=sure <= bounds.disturbed_worse,
            detail=f"error {found.after:.4g} after {found.before:.4g}, a gain of {_signed(found.gain)}"
            + (f", {bounds.slice_confidence:.0%} sure of {sure:.3g} worse" if sure > 0 else "")
            + f"; bound {bounds.disturbed_worse:g} worse",
        )

    def _size(self) -> GateResult:
        before, after = self.now.figures.size_bytes, self.new.figures.size_bytes
        return GateResult(
            gate=f"size {self.key}",
            passed=after <= self.bounds.size_ratio * before,
            detail=f"{after:,} bytes after {before:,}; bound {self.bounds.size_ratio:g} times as many",
        )


_Masks = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]


def _everything(evaluation: Evaluation) -> _Masks:
    assert evaluation.losses is not None
    return {_ALL: np.ones(len(evaluation.losses), dtype=bool)}


def _signed(gain: float) -> str:
    return f"{gain:+.3g}"
