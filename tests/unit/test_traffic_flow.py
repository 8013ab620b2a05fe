"""traffic-flow: counts read, split and written, the published protocol, and the slot that forecasts."""

import math
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadloop_agent.config import FlowCsvSource, MadeFlowSource, SlotTable
from roadloop_agent.drive.frames import Frame, Item
from roadloop_agent.drive.handlers.flow import FlowHandler
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.drive.shadow.compare.flow import COMPARISON
from roadloop_agent.drive.sources import open_source
from roadloop_models.contract.streams import FLOW_FORECAST
from roadloop_models.errors import DataError, FailedError, ModelInputError
from roadloop_models.preprocess import FloatArray, FlowScale, FlowWindow
from roadloop_models.tasks import get_task
from roadloop_models.tasks.flow_data import (
    FOLDER,
    TEST_FILE,
    TRAIN_FILE,
    FlowRows,
    load_test_flow,
    load_training_flow,
    read_flow,
    write_flow,
)
from roadloop_models.tasks.made_flow import made_flow
from roadloop_models.tasks.traffic_flow import forecast_errors
from tests.fakes.flow_model import flow_model

TABLE = SlotTable(task="traffic-flow", runtime="onnx", source="detector", rate_hz=1.0)


class Around:
    frames, dropped = 1, 3

    def may_capture(self) -> bool:
        return False


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """It forecasts the last count again."""
    return flow_model(tmp_path / "bundle", lambda flow, clock: flow[:, -1:])


def handle(handler: FlowHandler, item: Item, model: Model | None) -> Any:
    return handler.handle(Frame(item.number, 0.0, 0, item.data), model, Around())


# Rows


def test_counts_come_back_as_written(tmp_path: Path) -> None:
    rows = made_flow(3, seed=1)
    write_flow(tmp_path / "a.csv", rows)
    read = read_flow(tmp_path / "a.csv")
    np.testing.assert_array_equal(read.steps, rows.steps)
    np.testing.assert_array_equal(read.flow_veh, rows.flow_veh)


def test_made_counts_depend_on_the_seed_alone_and_have_rush_hours_on_workdays() -> None:
    rows = made_flow(7, seed=3)
    np.testing.assert_array_equal(rows.flow_veh, made_flow(7, seed=3).flow_veh)
    assert (rows.flow_veh != made_flow(7, seed=4).flow_veh).any()
    days = rows.flow_veh.reshape(7, 24, 12).sum(axis=2)
    assert (days[:5, 8] > 2 * days[:5, 3]).all() and (days[5:, 8] < 0.6 * days[:5, 8].mean()).all()


def test_windows_do_not_reach_over_a_missing_step() -> None:
    steps = np.array([*range(20), *range(21, 40)])
    rows = FlowRows(steps, np.ones(39, np.float32))
    assert rows.window_starts().tolist() == [*range(8), *range(20, 27)]


def test_starter_and_rest_are_all(tmp_path: Path) -> None:
    get_task("traffic-flow").write_made_data(tmp_path, seed=1)
    whole, starter, rest = (load_training_flow(tmp_path, part) for part in ("all", "starter", "rest"))
    assert len(starter) + len(rest) == len(whole) == 28 * 288 and len(load_test_flow(tmp_path)) == 4 * 288
    np.testing.assert_array_equal(np.concatenate([starter.steps, rest.steps]), whole.steps)
    get_task("traffic-flow").write_part(tmp_path, "starter", tmp_path / "snapshot")
    np.testing.assert_array_equal(load_training_flow(tmp_path / "snapshot", "snapshot").flow_veh, starter.flow_veh)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the header is"),
        ("time,speed\n", "expected '5 Minutes'"),
        ("5 Minutes,Flow\n", "has no rows"),
        ("5 Minutes,Flow\n04/03/2016 0:00,16\n04/03/2016 0:05\n", "line 3: expected a time"),
        ("5 Minutes,Flow\n2016-03-04,16\n", "line 2: expected a time as"),
        ("5 Minutes,Flow\n04/03/2016 0:00,-1\n", "line 2: -1 vehicles"),
        ("5 Minutes,Flow\n04/03/2016 0:00,nan\n", "line 2: nan vehicles"),
        ("5 Minutes,Flow\n04/03/2016 0:05,1\n04/03/2016 0:00,2\n", "does not ascend at data row 1"),
    ],
)
def test_a_broken_table_is_refused_by_file_and_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(content, encoding="utf-8-sig")
    with pytest.raises(DataError, match=f"counts.csv: .*{says}"):
        read_flow(path)


@pytest.mark.realdata
def test_the_published_rows_are_read_whole() -> None:
    folder = os.environ.get("ROADLOOP_DATA")
    if not folder:
        pytest.skip("ROADLOOP_DATA names no folder of real data")
    train, test = load_training_flow(Path(folder), "all"), load_test_flow(Path(folder))
    assert (len(train), len(test)) == (7776, 4320)
    assert len(np.unique(train.steps // 288)) == 27 and test.flow_veh[:3].tolist() == [16, 10, 11]
    last = forecast_errors(test.flow_veh[12:], test.flow_veh[11:-1])
    # As the data's description measured it: last value MAE 8.34, RMSE 11.31, MAPE 20.56 %, R2 .9213.
    assert [round(last[name], 4) for name in ("mae_veh", "rmse_veh", "mape_percent", "r2")] == pytest.approx(
        [8.34, 11.31, 20.56, 0.9213], abs=0.006
    )


# Protocol


def test_the_protocol_measures_the_last_value_forecast(model: Model, tmp_path: Path) -> None:
    rows = made_flow(2, seed=5)
    gap = FlowRows(np.concatenate([rows.steps[:300], rows.steps[300:] + 576]), rows.flow_veh)
    write_flow(tmp_path / FOLDER / TEST_FILE, gap)
    found = get_task("traffic-flow").evaluate(model.bundle, model.variant, model.runner, tmp_path)
    assert found.rows == 576 - 12, "windows over a missing day count too, as published"
    assert found.metrics == pytest.approx(forecast_errors(rows.flow_veh[12:], rows.flow_veh[11:-1]), rel=1e-5)
    assert found.losses is not None and np.sqrt(found.losses.mean()) == pytest.approx(found.metrics["rmse_veh"])


def test_figures_are_those_of_the_textbook() -> None:
    found = forecast_errors(np.array([0, 10, 20], np.float32), np.array([1, 8, 26], np.float32))
    assert found == pytest.approx(
        {"mae_veh": 3.0, "rmse_veh": math.sqrt(41 / 3), "mape_percent": 25.0, "r2": 1 - 41 / 200}
    )


def test_too_few_rows_are_refused(model: Model, tmp_path: Path) -> None:
    write_flow(tmp_path / FOLDER / TEST_FILE, made_flow(1, seed=5).span(0, 12))
    with pytest.raises(DataError, match="test.csv: 12 rows"):
        get_task("traffic-flow").evaluate(model.bundle, model.variant, model.runner, tmp_path)


# On board


def test_a_source_of_counts_gives_windows_where_they_are_unbroken(tmp_path: Path) -> None:
    rows = made_flow(1, seed=2)
    write_flow(tmp_path / TRAIN_FILE, FlowRows(np.delete(rows.steps, 20), np.delete(rows.flow_veh, 20)))
    items = list(open_source(FlowCsvSource(path="", last_row=39), tmp_path / TRAIN_FILE))
    assert [item.data.window is not None for item in items] == [11 <= row < 20 or row >= 31 for row in range(40)]
    window = items[15].data.window
    np.testing.assert_array_equal(window.flow_veh, rows.flow_veh[4:16])
    assert window.step == items[15].number + 1 == rows.steps[16]
    parts = [list(open_source(FlowCsvSource(path="", select=f"{part}/3"), tmp_path / TRAIN_FILE)) for part in range(3)]
    assert [item.number for part in parts for item in part] == np.delete(rows.steps, 20).tolist()


def test_a_count_is_told_without_a_model_and_with_a_forecast_once_the_window_is_full(model: Model) -> None:
    handler = FlowHandler(TABLE)
    items = list(islice(open_source(MadeFlowSource(days=1), None), 14))
    outcomes = [handle(handler, item, model) for item in items]
    assert [outcome.decided for outcome in outcomes] == [False] * 11 + [True] * 3
    for outcome, item in zip(outcomes, items, strict=True):
        ((stream, row),) = outcome.rows
        assert stream is FLOW_FORECAST and len(row) == len(stream.fields)
        assert row[:2] == [item.number, item.data.flow_veh] and row[-1] == 3
    assert math.isnan(outcomes[0].rows[0][1][2])
    assert outcomes[13].rows[0][1][2] == pytest.approx(items[13].data.flow_veh, rel=1e-5)
    assert outcomes[13].decision() == {
        "step": items[13].number + 1,
        "flow_veh": items[13].data.flow_veh,
        "forecast_veh": pytest.approx(items[13].data.flow_veh, abs=0.01),
    }
    without = handle(handler, items[13], None)
    assert not without.decided and without.rows[0][1][:2] == [items[13].number, items[13].data.flow_veh]


def test_an_answer_that_is_not_finite_is_an_error_and_one_below_zero_is_none(tmp_path: Path) -> None:
    item = list(islice(open_source(MadeFlowSource(days=1), None), 12))[-1]

    def saying(name: str, value: float) -> Model:
        def answer(flow: FloatArray, clock: FloatArray) -> FloatArray:
            return flow[:, :1] * 0 + np.float32(value)

        return flow_model(tmp_path / name, answer)

    with pytest.raises(FailedError, match="not finite"):
        handle(FlowHandler(TABLE), item, saying("nan", math.nan))
    assert handle(FlowHandler(TABLE), item, saying("below", -0.1)).rows[0][1][2] == 0.0


def test_a_window_of_another_length_is_refused() -> None:
    with pytest.raises(ModelInputError, match=r"float32 \[11\], expected float32 \[12\]"):
        FlowScale()(FlowWindow(np.ones(11, np.float32), 12))


def test_a_shadow_decides_about_what_was_seen(model: Model) -> None:
    items = list(islice(open_source(MadeFlowSource(days=1), None), 12))
    seen = handle(FlowHandler(TABLE), items[-1], model).seen
    decided = COMPARISON.decide(model, seen)
    assert decided.what == pytest.approx(items[-1].data.flow_veh, rel=1e-5)
    assert COMPARISON.agree(decided.what, decided.what + 5.0) and not COMPARISON.agree(decided.what, decided.what + 5.1)
