"""traffic-flow: from samples of the stream `flow-forecast` to one detector's counts. Pure.

A model is for one detector: the rows of a snapshot are those of one vehicle (or roadside unit). Where several send
counts, the one with the most steps is taken unless one is named.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from roadloop_cloud.datasets.quality import finding, found, stuck
from roadloop_cloud.datasets.snapshot import Content
from roadloop_cloud.datasets.speeds import MAX_STEP, gaps_of, step_origins
from roadloop_cloud.datasets.splits import Shares
from roadloop_cloud.labels.outcomes import by_vehicle
from roadloop_models.contract.streams import FLOW_FORECAST
from roadloop_models.errors import DataError
from roadloop_models.tasks.flow_data import MAX_FLOW_VEH, FlowRows


def assemble(
    table: pa.Table, detector: str | None, held_out_steps: Collection[int], shares: Shares
) -> tuple[FlowRows, Content]:
    """One count a step, and what was left out. Raises DataError where there is none."""
    by_detector = {name: _counts(rows) for name, rows in by_vehicle(table)}
    if detector is None and by_detector:
        detector = min(by_detector, key=lambda name: (-len(by_detector[name][0]), name))
    if detector is None or detector not in by_detector or not len(by_detector[detector][0]):
        known = ", ".join(by_detector) or "no vehicle"
        raise DataError(f"stream {FLOW_FORECAST.name}: nothing of {detector or 'any detector'}; {known} sent counts")
    steps, flow_veh, malformed, repeated = by_detector[detector]
    kept = np.isin(steps, np.asarray(list(held_out_steps), dtype=np.int64), invert=True)
    if not kept.any():
        raise DataError(f"stream {FLOW_FORECAST.name}: all {len(steps)} steps of {detector} are held out")
    rows = FlowRows(steps[kept], flow_veh[kept])
    excluded = {
        "held-out": int((~kept).sum()),
        "malformed": malformed,
        "other-detector": sum(len(found) for name, (found, *_) in by_detector.items() if name != detector),
        "said-twice": repeated,
    }
    # A quiet night is no fault: only counts above zero can be stuck.
    busy = [name for name in stuck(rows.flow_veh[:, np.newaxis], rows.steps) if not name.endswith(", 0")]
    content = Content(
        rows=len(rows),
        sources={detector: len(rows)},
        excluded={reason: count for reason, count in excluded.items() if count},
        gaps=gaps_of(rows.steps),
        split_by="time",
        origins=step_origins(rows.steps, shares),
        findings=found(finding("stuck-sensor", busy)),
    )
    return rows, content


def _counts(rows: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], int, int]:
    """(steps that ascend, vehicles in each, malformed samples, samples that repeat a step)."""
    step = np.asarray(rows["step"].to_numpy(zero_copy_only=False), dtype=np.float64)
    flow = np.asarray(rows["flow_veh"].to_numpy(zero_copy_only=False), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        sound = (step >= 0) & (step <= MAX_STEP) & (step == np.floor(step)) & (flow >= 0) & (flow <= MAX_FLOW_VEH)
    steps, first = np.unique(step[sound].astype(np.int64), return_index=True)
    return steps, flow[sound][first].astype(np.float32), int((~sound).sum()), int(sound.sum()) - len(steps)
