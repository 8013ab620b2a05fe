"""What the task's protocol found for one model file, as jobs record it and the gate reads it."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from roadloop_models.bundle.manifest import Sha256
from roadloop_models.tasks import Evaluation


class VariantFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the task's protocol found for one quantized file, run by the vehicle's own runner."""

    file_sha256: Sha256
    rows: int
    metrics: dict[str, float]
    size_bytes: int = 0
    ece: float | None = None
    """Expected calibration error, where the model says how sure it is."""
    disturbed: dict[str, float] = {}
    """Disturbance -> the metric on rows made worse so."""


Figures = Mapping[str, VariantFigures]
"""Variant key -> its figures."""


@dataclass(frozen=True)
class Seen:
    """One model file: its figures, and what they are of, row by row."""

    figures: VariantFigures
    evaluation: Evaluation
    disturbed: Mapping[str, Evaluation]


Examined = Mapping[str, Seen]
"""Variant key -> what was seen of it."""


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
