"""Drift as a live fleet raises it: real agents sketch what they see, a real broker carries it, the service looks.

The packaged model was trained on the first 80 % of losloop's week. Vehicles see the first day of the other rows as it
was, and again with every detector reading a quarter low: the change that is planted. How often chance alone raises an
alarm is measured on two hundred resampled days by drift.py.
"""

import tempfile
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from roadloop_cloud.store.database import now_utc
from roadloop_cloud.training.reference import with_reference
from roadloop_cloud.training.spec import DataSource
from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from roadloop_models.tasks.speed_data import SpeedRows, load_test_speeds
from tests.bench.figures import Figure, Result, Skipped
from tests.bench.learning.context import Context
from tests.bench.learning.loop_world import HOUR_S, STEPS_PER_HOUR, STEPS_PER_S, TASK, World, wait_for

PLANTED = 0.75
_LATE_S = 20.0
"""Sketches come after the hour that they are of, and the service looks every ten seconds."""
_figure = partial(Figure, command="scripts/bench learning")


def figures(context: Context) -> Iterator[Result]:
    """Six minutes: two days of data at one hour in HOUR_S seconds."""
    if context.data is None:
        yield Skipped("drift of a live fleet", "ROADLOOP_DATA names no data")
        return
    day = load_test_speeds(context.data).span(0, 24 * STEPS_PER_HOUR)
    with tempfile.TemporaryDirectory(prefix="roadloop-drift-") as folder:
        packaged = Bundle.open(packaged_bundles()[TASK])
        release = with_reference(packaged, DataSource(str(context.data), "all"), Path(folder) / "release")
        world = World(Path(folder), day, release.directory)
        with world.service():
            yield from _of_days(world, day)
        world.app.database.close()


def _of_days(world: World, day: SpeedRows) -> Iterator[Result]:
    """One day as it was, then the same day with the planted change."""
    changed = SpeedRows(day.steps, (day.speeds_mph * np.float32(PLANTED)).astype(np.float32), day.sensor_ids)
    quiet_s = _alarmed(world, "day", day)
    yield _figure("live_drift_alarms_in_a_day_without_change", 0 if quiet_s is None else 1, "alarms", bar=0)
    planted_s = _alarmed(world, "changed", changed)
    if planted_s is None:
        yield _figure("live_drift_planted_seen", 0, "of 1", bar=1, direction="at least")
        return
    yield _figure("live_drift_planted_seen", 1, "of 1", bar=1, direction="at least")
    yield _figure("live_drift_planted_seen_after_h", planted_s / HOUR_S, "h of data", bar=24)


def _alarmed(world: World, name: str, rows: SpeedRows) -> float | None:
    """Seconds of the clock from the first row to an alarm that was not there before; None: none came."""
    world.replay(name, rows)
    known = {alarm.id for alarm in world.app.drift.alarms(TASK)}
    with world.driving():
        begun = now_utc()

        def alarms() -> list[datetime]:
            return [alarm.raised for alarm in world.app.drift.alarms(TASK) if alarm.id not in known]

        wait_for("an alarm", lambda: bool(alarms()), len(rows) / STEPS_PER_S + _LATE_S)
        findings = world.app.drift.look().findings
        if not findings:
            raise AssertionError("the service has compared nothing, so that it raised nothing means nothing")
    raised = alarms()
    return max(0.0, (min(raised) - begun).total_seconds()) if raised else None
