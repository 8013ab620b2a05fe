"""Training of the forecasts: traffic-flow, and traffic-speed without the time of day and with other sensors."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from roadloop_cloud.training.evaluate import evaluate_bundle
from roadloop_cloud.training.run import run_training
from roadloop_cloud.training.spec import DataSource, TrainingSpec
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.golden import check_golden
from roadloop_models.errors import DataError, NotFoundError
from roadloop_models.packaged import packaged_bundles
from roadloop_models.runners import open_runner
from roadloop_models.tasks import get_task
from roadloop_models.tasks.flow_data import load_test_flow
from roadloop_models.tasks.made_speeds import made_speeds
from roadloop_models.tasks.speed_data import SpeedRows, write_speeds
from roadloop_models.tasks.traffic_flow import forecast_errors

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def trained(spec: TrainingSpec, folder: Path) -> Bundle:
    return Bundle.open(Path(run_training(spec, folder).bundle))


def check_variants(bundle: Bundle) -> None:
    assert {variant.key for variant in bundle.manifest.variants} == {"onnx-int8", "tflite-int8"}
    for variant in bundle.manifest.variants:
        check_golden(bundle, variant, open_runner(bundle, variant))


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("counts")
    get_task("traffic-flow").write_made_data(directory, seed=7)
    return directory


def test_flow_learns_more_than_the_last_value_and_goes_on_from_a_parent(counts: Path, tmp_path: Path) -> None:
    spec = TrainingSpec(task="traffic-flow", version="v-1", data=DataSource(str(counts), "starter"), epochs=8)
    first = trained(spec, tmp_path / "first")
    check_variants(first)
    last = load_test_flow(counts).flow_veh
    plain = forecast_errors(last[12:], last[11:-1])["rmse_veh"]
    before = {key: found.metrics["rmse_veh"] for key, found in evaluate_bundle(first, counts).items()}
    assert max(before.values()) < 0.95 * plain
    get_task("traffic-flow").write_part(counts, "rest", tmp_path / "snapshot")
    again = msgspec.structs.replace(
        spec,
        version="v-2",
        data=DataSource(str(tmp_path / "snapshot")),
        base=DataSource(str(counts), "starter"),
        parent=str(first.directory),
        epochs=None,
    )
    second = trained(again, tmp_path / "second")
    assert second.manifest.lineage.parent_version == "v-1"
    for key, found in evaluate_bundle(second, counts).items():
        assert found.metrics["rmse_veh"] < before[key], key


@pytest.fixture
def few_sensors(tmp_path: Path) -> Path:
    """The first 20 of the made sensors, test rows too."""
    rows, adjacency = made_speeds(2, seed=5)
    write_speeds(
        tmp_path, SpeedRows(rows.steps, rows.speeds_mph[:, :20], rows.sensor_ids[:20]), adjacency[:20, :20], False
    )
    return tmp_path


def test_speeds_alone_are_a_form_that_a_child_keeps(few_sensors: Path, tmp_path: Path) -> None:
    spec = TrainingSpec(
        task="traffic-speed",
        version="alone-1",
        data=DataSource(str(few_sensors), "all"),
        form="speeds-alone",
        epochs=1,
        refit=False,
    )
    bundle = trained(spec, tmp_path / "first")
    check_variants(bundle)
    assert bundle.manifest.preprocess.params == {"window": 12, "sensors": 20, "scale_mph": 70.0, "clock": 0}
    assert all(len(variant.inputs) == 1 for variant in bundle.manifest.variants)
    found = evaluate_bundle(bundle, few_sensors)
    assert all(np.isfinite(one.metrics["rmse_mph_60min"]) for one in found.values())
    child = msgspec.structs.replace(spec, version="alone-2", parent=str(bundle.directory), form=None)
    assert trained(child, tmp_path / "second").manifest.preprocess == bundle.manifest.preprocess


def test_a_parent_for_other_sensors_is_refused(few_sensors: Path, tmp_path: Path) -> None:
    parent = str(packaged_bundles()["traffic-speed"])
    spec = TrainingSpec(task="traffic-speed", version="v-1", data=DataSource(str(few_sensors), "all"), parent=parent)
    with pytest.raises(DataError, match="20 sensors, the model is for 207"):
        run_training(spec, tmp_path / "work")


@pytest.mark.parametrize("task", ["traffic-speed", "traffic-flow"])
def test_an_unknown_form_is_refused(counts: Path, tmp_path: Path, task: str) -> None:
    spec = TrainingSpec(task=task, version="v-1", data=DataSource(str(counts), "all"), form="clock-alone")
    with pytest.raises(NotFoundError, match=f"no form 'clock-alone' of {task}"):
        run_training(spec, tmp_path / "work")
