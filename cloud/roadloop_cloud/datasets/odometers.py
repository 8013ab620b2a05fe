"""localization: from samples of the stream `position` to an odometer beside GNSS, where GNSS was good. Pure.

Stretches of several drives lie one after the other in one record, with a pause between them, so that none runs on into
the next.
"""

from collections import Counter

import numpy as np
import pyarrow as pa

from roadloop_cloud.datasets.origins import RowOrigin
from roadloop_cloud.datasets.quality import finding, found
from roadloop_cloud.datasets.snapshot import Content
from roadloop_cloud.datasets.splits import Shares, SplitBy, by_name, by_time
from roadloop_cloud.labels.outcomes import Stretch, gnss_stretches
from roadloop_models.contract.streams import POSITION
from roadloop_models.errors import DataError
from roadloop_models.tasks.localization_data import OdometerRows

PAUSE_S = 60.0
ODD_SCALE = 0.1
"""An odometer that is off by more than a tenth is named: its wheel size is wrong, or its GNSS lies."""


def assemble(table: pa.Table, split_by: SplitBy, shares: Shares) -> tuple[OdometerRows, Content]:
    """All stretches, by vehicle and time. Each is one row of rows.csv. Raises DataError where there is none."""
    stretches = gnss_stretches(table)
    if not stretches:
        raise DataError(f"stream {POSITION.name}: no minute in which odometer and GNSS are both there and plausible")
    bonds = [(f"{_unit(stretch, split_by)}", f"drive {stretch.vehicle}/{stretch.boot}") for stretch in stretches]
    if split_by == "time":
        placed = by_time(bonds, [float(stretch.first_t_ms) for stretch in stretches], shares)
    else:
        placed = by_name(bonds, [""] * len(stretches), shares)
    start_s, shifted = 0.0, []
    for stretch in stretches:
        shifted.append(stretch.t_s - stretch.t_s[0] + start_s)
        start_s = float(shifted[-1][-1]) + PAUSE_S
    rows = OdometerRows(
        np.concatenate(shifted),
        np.concatenate([stretch.odometer_mps for stretch in stretches]),
        np.concatenate([stretch.reference_mps for stretch in stretches]),
    )
    sources: Counter[str] = Counter()
    for stretch in stretches:
        sources[stretch.vehicle] += len(stretch)
    odd = [f"{one.name}, {one.scale:.3f}" for one in stretches if abs(one.scale - 1) > ODD_SCALE]
    content = Content(
        rows=len(rows),
        sources=dict(sorted(sources.items())),
        excluded={reason: count for reason, count in (("no-good-gnss", table.num_rows - len(rows)),) if count},
        split_by=split_by,
        origins=[
            RowOrigin(
                one.name, place.split, place.group, one.vehicle, f"{one.vehicle}/{one.boot}", "", "gnss", POSITION.name
            )
            for one, place in zip(stretches, placed, strict=True)
        ],
        findings=found(finding("odometer-far-from-gnss", odd, detail="metres of GNSS for one of the odometer")),
    )
    return rows, content


def _unit(stretch: Stretch, split_by: SplitBy) -> str:
    return f"vehicle {stretch.vehicle}" if split_by == "vehicle" else f"drive {stretch.vehicle}/{stretch.boot}"
