"""Whether a candidate may replace the incumbent: a pure judgement of what both do on the same held-out rows."""

from collections.abc import Mapping

import msgspec

from roadloop_models.bundle.manifest import Sha256
from roadloop_models.tasks import Task, is_better


class VariantFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the task's protocol found for one quantized file, run by the vehicle's own runner."""

    file_sha256: Sha256
    rows: int
    metrics: dict[str, float]


Figures = Mapping[str, VariantFigures]
"""Variant key -> its figures."""


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """One gate: passed, or why not and by how much."""

    gate: str
    passed: bool
    detail: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """All gates, and the variant that decided: the one that gains least."""

    gates: tuple[GateResult, ...]
    deciding: str

    @property
    def accepted(self) -> bool:
        """Whether every gate was passed."""
        return all(gate.passed for gate in self.gates)

    @property
    def refusals(self) -> list[str]:
        """The gates that were not passed, for people."""
        return [f"gate '{gate.gate}': {gate.detail}" for gate in self.gates if not gate.passed]


def judge(task: Task, incumbent: Figures, candidate: Figures, margin: float = 0.0) -> Verdict:
    """Compare variant by variant; a vehicle runs only one of them, so each must be better by more than `margin`.

    `margin` is in the metric's own unit. Both sides must have been evaluated on the same rows.
    """
    missing = sorted(set(incumbent) - set(candidate))
    common = sorted(set(incumbent) & set(candidate))
    gates = [
        GateResult(
            gate="variants",
            passed=not missing and bool(common),
            detail=f"has no {', '.join(missing)}, which vehicles run" if missing else f"{', '.join(common)} are there",
        )
    ]
    for key in common:
        gates.append(_same_rows(key, incumbent[key], candidate[key]))
        gates.append(_better(task, key, incumbent[key], candidate[key], margin))
    deciding = min(common, key=lambda key: _gain(task, incumbent[key], candidate[key]), default="")
    return Verdict(gates=tuple(gates), deciding=deciding)


def _same_rows(key: str, incumbent: VariantFigures, candidate: VariantFigures) -> GateResult:
    same = incumbent.rows == candidate.rows
    detail = f"{candidate.rows} rows" if same else f"{incumbent.rows} and {candidate.rows} rows cannot be compared"
    return GateResult(gate=f"same-rows {key}", passed=same, detail=detail)


def _better(task: Task, key: str, incumbent: VariantFigures, candidate: VariantFigures, margin: float) -> GateResult:
    now, new = incumbent.metrics[task.metric], candidate.metrics[task.metric]
    passed = is_better(task, new, now, margin)
    gain = _gain(task, incumbent, candidate)
    direction = "better" if gain > 0 else "worse" if gain < 0 else "no better"
    by = f" by {abs(gain):.5g}" if gain else ""
    needed = f", needed more than {margin:g}" if not passed else ""
    return GateResult(
        gate=f"better {key}",
        passed=passed,
        detail=f"{task.metric} {new:.5g} is {direction} than {now:.5g}{by}{needed}",
    )


def _gain(task: Task, incumbent: VariantFigures, candidate: VariantFigures) -> float:
    difference = candidate.metrics[task.metric] - incumbent.metrics[task.metric]
    return difference if task.higher_is_better else -difference
