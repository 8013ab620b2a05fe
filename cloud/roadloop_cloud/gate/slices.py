"""Error by slice, for people to look at; what the gate makes of slices is in judge.py."""

from dataclasses import dataclass

import numpy as np

from roadloop_models.tasks import Evaluation

_SHOWN_OF_KIND = 12


@dataclass(frozen=True)
class Slice:
    """Rows that are looked at apart, and the error on them."""

    kind: str
    label: str
    error: float
    rows: int


def slices_of(evaluation: Evaluation) -> list[Slice]:
    """Error by slice, kind by kind, of each the worst dozen, the worst first."""
    if evaluation.losses is None:
        return []
    found = []
    for kind, labels in evaluation.slices.items():
        of_kind = []
        for label in np.unique(labels):
            mask = labels == label
            mean = float(evaluation.losses[mask].mean(dtype=np.float64))
            of_kind.append(Slice(kind, str(label), mean**0.5 if evaluation.root else mean, int(mask.sum())))
        found += sorted(of_kind, key=lambda one: -one.error)[:_SHOWN_OF_KIND]
    return found
