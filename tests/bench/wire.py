"""What a telemetry sample weighs on the wire."""

from functools import partial
from pathlib import Path

import numpy as np

from roadloop_agent.drive.handlers.speed import speed_observations
from roadloop_models.contract.channels import TELEMETRY
from roadloop_models.contract.codec import encode
from roadloop_models.contract.columns import encode_columns
from roadloop_models.contract.messages import TelemetryBatch
from roadloop_models.contract.streams import MAX_FIELDS, ROAD_SPEED, Field
from roadloop_models.tasks.speed_data import load_training_speeds
from tests.bench.figures import Figure, Result, Skipped

BATCH = 100
MQTT_HEADER_BYTES = 8
"""Fixed header, topic length, packet id and property length of a QoS 1 PUBLISH in MQTT 5."""
_figure = partial(Figure, command="scripts/bench vehicle")


def figures(data: Path | None) -> list[Result]:
    """Bytes a sample, of made signals and of real road speeds."""
    results: list[Result] = [_figure("wire_bytes_per_sample_made", _made_sample_bytes(), "B", bar=40.0)]
    if data is None:
        return [*results, Skipped("wire_bytes_per_sample_road", "ROADLOOP_DATA names no data")]
    return [*results, _figure("wire_bytes_per_sample_road", _road_sample_bytes(data), "B", bar=40.0)]


def _made_sample_bytes() -> float:
    """22 signals as a car gives them: 12 smooth ones, 6 counters, 4 that never change."""
    random = np.random.default_rng(7)
    smooth = np.cumsum(random.normal(size=(BATCH, 12)) * 0.05, axis=0) + 20
    counters = np.cumsum(random.integers(0, 3, size=(BATCH, 6)), axis=0)
    constants = np.tile(random.integers(0, 9, size=4), (BATCH, 1))
    rows = np.concatenate([smooth, counters, constants], axis=1)
    fields = [Field(f"signal_{index}", 0.01 if index < 12 else 1.0) for index in range(MAX_FIELDS)]
    return _bytes_per_sample("signals", encode_columns(fields, range(0, BATCH * 100, 100), rows.tolist()))


def _road_sample_bytes(data: Path) -> float:
    """Real road speeds, as a vehicle sends them."""
    rows = load_training_speeds(data, "rest")
    samples = [
        row
        for step, speeds in zip(rows.steps, rows.speeds_mph, strict=True)
        for row in speed_observations(int(step), speeds)
    ]
    sizes = [
        _bytes_per_sample(
            ROAD_SPEED.name, encode_columns(ROAD_SPEED.fields, range(BATCH), samples[start : start + BATCH])
        )
        for start in range(0, len(samples) - BATCH, BATCH)
    ]
    return float(np.mean(sizes))


def _bytes_per_sample(stream: str, columns: bytes) -> float:
    payload = encode(TELEMETRY, TelemetryBatch(boot=1, first_seq=1, last_seq=BATCH, columns=columns))
    return (len(payload) + len(TELEMETRY.topic("van-1", stream=stream)) + MQTT_HEADER_BYTES) / BATCH
