"""The gate as the retraining, and a person, use it: see both models on the same rows, then judge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from roadloop_cloud.gate.bounds import Bounds
from roadloop_cloud.gate.budgets import judge_budget, read_budgets
from roadloop_cloud.gate.examine import Evaluate, Show, examine, read_examined
from roadloop_cloud.gate.figures import Figures, GateResult, VariantFigures, Verdict
from roadloop_cloud.gate.held_out import TrainedOn, judge_held_out, trained_on
from roadloop_cloud.gate.judge import judge
from roadloop_cloud.gate.latency import judge_latency
from roadloop_models.bundle import Bundle, Manifest
from roadloop_models.bundle.golden import check_golden
from roadloop_models.errors import BundleError, GoldenMismatchError
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task


@dataclass(frozen=True)
class Judged:
    """One side of a judgement: its bundle, its figures, and the folder in which `examine` kept what they are of."""

    bundle: Bundle
    figures: Figures
    folder: Path


Latency = Callable[[Bundle, Bundle, str], tuple[float, float]]
"""(incumbent, candidate, variant key) -> microseconds of each; latency.py has the real one."""


@dataclass(frozen=True)
class Gate:
    """Application service; it writes nothing but what `examine` keeps."""

    evaluate: Evaluate
    bounds: Callable[[str], Bounds]
    """By task."""
    find_parent: Callable[[str, str], Manifest]
    """(task, version) -> manifest. Raises NotFoundError, BundleError."""
    find_snapshot: Callable[[str], Path]
    """SHA-256 -> directory. Raises NotFoundError, DataError."""
    profiles: Callable[[], Mapping[str, str]]
    """Name -> text of the hardware profiles that the fleet may have."""
    latency: Latency

    def with_profiles(self, texts: Mapping[str, str]) -> "Gate":
        """The same gate with the budgets of these profiles."""
        return replace(self, profiles=lambda: texts)

    def examine(self, bundle: Bundle, data_dir: Path, folder: Path, progress: Show) -> dict[str, VariantFigures]:
        """Figures of every int8 variant; what they are of is kept in `folder`. Raises DataError."""
        return examine(bundle, data_dir, folder, self.evaluate, progress)

    def judge(
        self,
        incumbent: Judged,
        candidate: Judged,
        data_dir: Path,
        *,
        margin: float | None = None,
        also_trained_on: Sequence[TrainedOn] = (),
    ) -> Verdict:
        """All gates. `margin` and what the lineage does not tell (`also_trained_on`) are the caller's to say.

        Raises DataError, RuntimeMissingError.
        """
        task = get_task(candidate.bundle.manifest.task)
        bounds = self.bounds(task.name)
        if margin is not None:
            bounds = msgspec.structs.replace(bounds, margin=margin)
        sources = [*also_trained_on, *self._sources(incumbent.bundle, candidate.bundle, data_dir)]
        verdict = judge(
            task,
            read_examined(incumbent.figures, incumbent.folder),
            read_examined(candidate.figures, candidate.folder),
            bounds,
        )
        gates = [judge_held_out(task, data_dir, sources), *verdict.gates]
        golden = judge_golden(candidate.bundle)
        if golden.passed:
            gates += self._costs(incumbent, candidate, bounds)
        return Verdict(gates=(*gates, golden), deciding=verdict.deciding)

    def _sources(self, incumbent: Bundle, candidate: Bundle, data_dir: Path) -> list[TrainedOn]:
        def find_parent(version: str) -> Manifest:
            return self.find_parent(candidate.manifest.task, version)

        sides = (("incumbent", incumbent), ("candidate", candidate))
        return [
            source
            for side, bundle in sides
            for source in trained_on(bundle.manifest, side, data_dir, find_parent, self.find_snapshot)  # type: ignore[arg-type]
        ]

    def _costs(self, incumbent: Judged, candidate: Judged, bounds: Bounds) -> list[GateResult]:
        """Latency beside the incumbent's, and both budgets of the hardware profiles."""
        budgets = read_budgets(candidate.bundle.manifest.task, self.profiles())
        gates = []
        for key in sorted(set(incumbent.figures) & set(candidate.figures)):
            before_us, after_us = self.latency(incumbent.bundle, candidate.bundle, key)
            gates.append(judge_latency(key, before_us, after_us, bounds))
            if key in budgets:
                gates += judge_budget(key, budgets[key], after_us, candidate.figures[key].size_bytes)
        return gates


def judge_golden(bundle: Bundle) -> GateResult:
    """Whether every variant reproduces its golden vectors here."""
    try:
        for variant in bundle.manifest.variants:
            runner = open_runner(bundle, variant)
            try:
                check_golden(bundle, variant, runner)
            finally:
                runner.close()
    except (BundleError, GoldenMismatchError) as error:
        return GateResult(gate="golden", passed=False, detail=str(error))
    return GateResult(gate="golden", passed=True, detail="reproduces its golden vectors")
