"""A minute of a slot in one sample."""

import math

import pytest

from roadloop_agent.drive.slots import Tally
from roadloop_agent.drive.summary import Summaries
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.contract.streams import SUMMARY

NAMES = [field.name for field in SUMMARY.fields]


def tally(release: int | None = 1, decisions: list[tuple[float, float | None]] | None = None, errors: int = 0) -> Tally:
    ref = None
    if release is not None:
        ref = ReleaseRef(task="traffic-sign", release=release, version=f"v{release}", manifest_sha256="0" * 64)
    made = Tally(ref, errors=errors)
    for latency_us, confidence in decisions or []:
        made.add(latency_us, confidence)
    return made


def named(row: list[float]) -> dict[str, float]:
    return dict(zip(NAMES, row, strict=True))


def test_a_minute_is_summed_up() -> None:
    summaries = Summaries(100.0)
    summaries.add(0, tally(decisions=[(100.0, 0.9), (200.0, 0.5)]), 3, 1)
    assert summaries.rows(159.0) == []
    summaries.add(0, tally(decisions=[(600.0, 0.7)], errors=2), 5, 4)
    (row,) = summaries.rows(161.0)
    assert named(row) == pytest.approx(
        {
            "slot": 0, "release": 1, "seconds": 61.0, "decisions": 3, "errors": 2, "confidence_mean": 0.7,
            "confidence_min": 0.5, "latency_mean_us": 300.0, "latency_max_us": 600.0, "dropped": 5, "shed": 4,
        }
    )  # fmt: skip
    summaries.add(0, tally(decisions=[(100.0, 0.9)]), 6, 4)
    assert summaries.rows(220.0) == []
    (row,) = summaries.rows(221.0)
    assert (named(row)["decisions"], named(row)["dropped"], named(row)["shed"]) == (1, 1, 0)


def test_each_slot_and_release_has_its_own_row_and_frames_count_once() -> None:
    summaries = Summaries(0.0)
    summaries.add(0, tally(1, [(1.0, None)]), 7, 0)
    summaries.add(0, tally(2, [(1.0, None), (1.0, None)]), 7, 0)
    summaries.add(1, tally(None), 0, 0)
    rows = [named(row) for row in summaries.rows(1.0, ended=True)]
    assert [(row["slot"], row["decisions"]) for row in rows] == [(0, 1), (0, 2), (1, 0)]
    assert [row["release"] for row in rows[:2]] == [1, 2] and math.isnan(rows[2]["release"])
    assert sum(row["dropped"] for row in rows) == 7
    assert math.isnan(rows[0]["confidence_mean"]) and math.isnan(rows[2]["latency_mean_us"])
    assert summaries.rows(100.0) == []
