"""localization on board and over files, with the bundle that ships: what is told, and when nothing is decided."""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import open_handler
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.infer import InferOptions, infer_file, open_model
from roadloop_models.contract.streams import POSITION
from roadloop_models.errors import DataError
from roadloop_models.localization.sample import YAW_SIGNAL
from roadloop_models.packaged import packaged_bundles
from roadloop_models.signals import Quality, SignalFrame
from roadloop_models.tasks.localization import Localization
from roadloop_models.tasks.localization_data import CITY_FILE, FOLDER, SPEED_FILE

SPEED, REFERENCE = "Vehicle.Speed", "Vehicle.CurrentLocation.Speed"


class FakeAround:
    """A slot that has room."""

    frames, dropped = 1, 3

    def may_capture(self) -> bool:
        return True


@contextlib.contextmanager
def unseen(lines: Iterable[Any], count: int | None) -> Iterator[Iterable[Any]]:
    yield lines


@pytest.fixture(scope="module", params=["onnx", "tflite"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    pytest.importorskip("onnxruntime" if request.param == "onnx" else "ai_edge_litert")
    with closing(open_model(packaged_bundles()["localization"], request.param, "int8")) as opened:
        yield opened


def frame(row: int, speed_mps: float, reference_mps: float) -> Frame:
    values = {SPEED: speed_mps, REFERENCE: reference_mps, YAW_SIGNAL: 0.0}
    quality = {name: Quality.STALE if math.isnan(value) else Quality.OK for name, value in values.items()}
    return Frame(row, row * 0.1, 0, SignalFrame(row * 0.1, values, quality))


def test_on_board_an_outage_makes_sigma_grow_and_confidence_fall(model: Model) -> None:
    handler = open_handler(SlotTable(task="localization", runtime="onnx", source="motion", rate_hz=10.0))
    outcomes = []
    for row in range(600):
        seen = 10.0 + math.sin(row / 30) if row < 300 else math.nan
        outcomes.append(handler.handle(frame(row, 10.0 + math.sin(row / 30), seen), model, FakeAround()))
    decided = [outcome for outcome in outcomes if outcome.decided]
    assert len(decided) == 300  # 5 Hz of 10 Hz frames
    early, late = decided[100].confidence, decided[-1].confidence
    assert early is not None and late is not None and late < early == pytest.approx(1.0)
    ((stream, row_values),) = decided[-1].rows
    assert stream is POSITION and len(row_values) == len(POSITION.fields)
    named = dict(zip((field.name for field in POSITION.fields), row_values, strict=True))
    assert named["sigma_m"] > 0.3 and math.isnan(named["reference_mps"]) and named["dropped"] == 3
    assert named["outage_s"] == pytest.approx(30.0, abs=0.3) and math.isnan(named["east_m"])
    assert decided[-1].decision is not None
    assert json.loads(json.dumps(decided[-1].decision()))["along_m"] == pytest.approx(named["along_m"], abs=1e-3)


def test_a_stale_odometer_is_told_and_not_used_silently(model: Model) -> None:
    handler = open_handler(SlotTable(task="localization", runtime="onnx", source="motion", rate_hz=10.0))
    for row in range(200):
        handler.handle(frame(row, 10.0, 10.0), model, FakeAround())
    told = []
    for row in range(200, 260):
        outcome = handler.handle(frame(row, math.nan, math.nan), model, FakeAround())
        told += [] if outcome.decision is None else [outcome.decision()]
    assert not outcome.decided and told[-1]["missing"] == [SPEED]
    assert told[-1]["sigma_m"] > 5.0 > told[0]["sigma_m"]


def test_without_a_model_nothing_is_decided_and_the_session_goes_on(model: Model) -> None:
    handler = open_handler(SlotTable(task="localization", runtime="onnx", source="motion", rate_hz=10.0))
    for row in range(100):
        assert not handler.handle(frame(row, 10.0, 10.0), None, FakeAround()).decided
    outcome = handler.handle(frame(100, 10.0, 10.0), model, FakeAround())
    assert outcome.decided and outcome.decision is not None
    assert outcome.decision()["along_m"] == pytest.approx(100.0)


def test_infer_hides_the_reference_for_the_outage_only(model: Model, tmp_path: Path) -> None:
    Localization().write_made_data(tmp_path, seed=2)
    path, output = tmp_path / CITY_FILE, tmp_path / "out.jsonl"
    written = infer_file(model, path, output, InferOptions({}, outage=(100.0, 30.0)), unseen)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert written == len(lines) == 1001 and lines[0]["t"] == 0.0
    at = {round(line["t"], 1): line for line in lines}
    assert at[99.8]["outage_s"] <= 1.0 and at[130.0]["outage_s"] >= 30.0 and at[132.0]["outage_s"] <= 1.0
    assert at[130.0]["sigma_m"] > at[110.0]["sigma_m"] > at[99.8]["sigma_m"]
    assert {"east_m", "north_m"} <= set(at[130.0])


def test_infer_refuses_an_outage_after_the_drives_end(model: Model, tmp_path: Path) -> None:
    Localization().write_made_data(tmp_path, seed=2)
    with pytest.raises(DataError, match="--outage begins 900 s after the first row, the drive has 200 s"):
        infer_file(model, tmp_path / CITY_FILE, tmp_path / "o", InferOptions({}, outage=(900.0, 30.0)), unseen)


@pytest.mark.realdata
def test_the_shipped_network_beats_plain_integration_on_rows_it_never_saw(model: Model) -> None:
    data = os.environ.get("ROADLOOP_DATA")
    if data is None:
        pytest.skip("ROADLOOP_DATA names no data folder")
    assert (Path(data) / FOLDER / SPEED_FILE).exists()
    figures = Localization().evaluate(model.bundle, model.variant, model.runner, Path(data)).metrics
    assert figures["along_m_60s"] < figures["plain_along_m_60s"]
    assert figures["along_m_180s"] < figures["plain_along_m_180s"]
    assert figures["position_percent_60s"] < min(3.2, figures["plain_position_percent_60s"])
    assert 0.5 <= figures["within_sigma_60s"] <= 0.85
    assert np.isfinite(list(figures.values())).all()
