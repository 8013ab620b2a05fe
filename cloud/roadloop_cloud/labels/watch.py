"""Looks at the labels of a task, and has vehicles set apart whose labels lie far outside their cohort."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from roadloop_cloud.captures import Captures
from roadloop_cloud.drift.decide import Rules
from roadloop_cloud.labels.honesty import Liar, contradicted, liars, measured
from roadloop_cloud.labels.labelling import KINDS
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.labels.words import judge

WINDOW = timedelta(days=7)
"""What was said before says nothing of a vehicle any more: a person may have put it right and let it out."""


@dataclass(frozen=True)
class LabelWatch:
    """Application service; `look` is repeatable."""

    labels: Labels
    captures: Captures
    classes: Callable[[str], tuple[str, ...]]
    hardware: Callable[[], Mapping[str, str]]
    """Vehicle -> its hardware."""
    quarantined: Callable[[], Collection[str]]
    set_apart: Callable[[str, str], bool]
    """(vehicle, why) -> whether it was not yet."""
    rules: Rules
    least_ks: float
    """How far from its cohort a vehicle must be."""
    now: Callable[[], datetime]

    def look(self, task: str) -> Sequence[str]:
        """Vehicles that this look has set apart. Nobody moves the others' median who is not believed already."""
        verdicts = judge(self.labels.words(task, self.now() - WINDOW))
        heard = list(measured(verdicts.values()))
        if KINDS.get(task) == "class" and verdicts:
            items = [item for item in self.captures.of(task) if item.sha256 in verdicts]
            heard += contradicted(items, verdicts, self.captures.decisions(items), self.classes(task))
        distrusted = set(self.quarantined())
        believed = {vehicle: kind for vehicle, kind in self.hardware().items() if vehicle not in distrusted}
        found = liars(heard, believed, self.rules, self.least_ks)
        return [liar.vehicle for liar in found if self.set_apart(liar.vehicle, why(task, liar))]


def why(task: str, liar: Liar) -> str:
    """For people."""
    return (
        f"labels of {task}: {liar.quantity} {liar.ks:.2f} from the median of its cohort ({liar.hardware}), "
        f"where others are {liar.others_ks:.2f} from it; {liar.mean:.4g} on average, the others' {liar.others_mean:.4g}"
    )
