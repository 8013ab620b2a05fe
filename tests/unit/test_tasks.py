"""Tasks: data read, split and written; made data; metrics; the protocol run through a real runner."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from roadloop_cloud.training.evaluate import evaluate_bundle
from roadloop_models.bundle import Bundle
from roadloop_models.errors import DataError, NotFoundError
from roadloop_models.runners import open_runner
from roadloop_models.tasks import TASKS, Part, get_task, is_better, traffic_sign
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.made_speeds import made_speeds
from roadloop_models.tasks.sign_data import (
    SignRows,
    load_signs,
    load_test_signs,
    load_training_signs,
    split_by_track,
    write_signs,
)
from roadloop_models.tasks.speed_data import (
    SpeedRows,
    load_adjacency,
    load_speeds,
    load_test_speeds,
    load_training_speeds,
    write_speeds,
)
from roadloop_models.tasks.traffic_speed import pooled_errors
from tests.fakes.bundles import tiny_bundle
from tests.fakes.speed_bundle import speed_bundle

VECTORS = Path(__file__).parents[1] / "vectors" / "data"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made data of both tasks, as small as it gets."""
    directory = tmp_path_factory.mktemp("made")
    write_signs(directory / "gtsrb32" / "train.npz", made_signs(5, 2, seed=1))
    write_signs(directory / "gtsrb32" / "test_a.npz", made_signs(1, 1, seed=2), with_tracks=False)
    rows, adjacency = made_speeds(1, seed=1)
    write_speeds(directory, rows, adjacency, with_steps=False)
    return directory


def test_tasks_are_found_by_name_and_the_nearest_is_offered() -> None:
    assert [get_task(name).name for name in TASKS] == list(TASKS)
    with pytest.raises(NotFoundError, match="did you mean traffic-sign"):
        get_task("trafic-sign")


def test_better_means_higher_accuracy_and_lower_error() -> None:
    sign, speed = get_task("traffic-sign"), get_task("traffic-speed")
    assert is_better(sign, 0.95, 0.94) and not is_better(sign, 0.94, 0.95)
    assert is_better(speed, 6.5, 6.6) and not is_better(speed, 6.6, 6.5)
    assert not is_better(speed, 6.5, 6.55, margin=0.1)


# Signs


def test_signs_come_back_as_written(made: Path) -> None:
    rows = made_signs(5, 2, seed=1)
    read = load_training_signs(made, "all")
    np.testing.assert_array_equal(read.images, rows.images)
    np.testing.assert_array_equal(read.labels, rows.labels)
    np.testing.assert_array_equal(read.tracks, rows.tracks)
    assert len(load_test_signs(made)) == 43


def test_tested_signs_are_decoded_once_and_again_where_the_file_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def load(data_dir: Path) -> SignRows:
        decoded.append(data_dir)
        return load_test_signs(data_dir)

    monkeypatch.setattr(traffic_sign, "load_test_signs", load)
    bundle = tiny_bundle(tmp_path / "bundle", "v-1")
    for tracks in (1, 2):
        write_signs(tmp_path / "gtsrb32" / "test_a.npz", made_signs(tracks, 1, seed=2), with_tracks=False)
        for _ in range(2):
            (found,) = evaluate_bundle(bundle, tmp_path).values()
            assert found.rows == 43 * tracks
    assert len(decoded) == 2


def test_a_track_number_that_two_classes_use_is_two_tracks(tmp_path: Path) -> None:
    rows = made_signs(3, 2, seed=1)
    write_signs(tmp_path / "gtsrb32" / "train.npz", SignRows(rows.images, rows.labels, rows.tracks % 3))
    read = load_training_signs(tmp_path, "all")
    np.testing.assert_array_equal(read.tracks, rows.tracks)
    fit, held_out = split_by_track(read, 0.3, seed=1)
    assert len(held_out) == 43 * 2 and not set(fit.tracks) & set(held_out.tracks)


def test_made_signs_depend_on_the_seed_alone() -> None:
    first, again, other = made_signs(1, 1, 4), made_signs(1, 1, 4), made_signs(1, 1, 5)
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != other.images).any()
    assert sorted(set(first.labels.tolist())) == list(range(43))


def test_starter_and_rest_share_no_track_and_are_all(made: Path) -> None:
    whole, starter, rest = (load_training_signs(made, part) for part in ("all", "starter", "rest"))
    assert not set(starter.tracks) & set(rest.tracks)
    assert len(starter) + len(rest) == len(whole)
    assert set(starter.labels) == set(range(43))
    assert len(starter) < len(rest)


def test_validation_holds_out_whole_tracks_of_each_class(made: Path) -> None:
    fit, held_out = split_by_track(load_training_signs(made, "all"), 0.2, seed=3)
    assert not set(fit.tracks) & set(held_out.tracks)
    assert set(fit.labels) == set(held_out.labels) == set(range(43))


def test_a_class_of_one_track_is_not_held_out() -> None:
    rows = SignRows(np.zeros((2, 32, 32, 3), np.uint8), np.array([3, 3]), np.array([8, 8]))
    fit, held_out = split_by_track(rows, 0.5, seed=0)
    assert (len(fit), len(held_out)) == (2, 0)


@pytest.mark.parametrize("task_name", ["traffic-sign", "traffic-speed"])
@pytest.mark.parametrize("part", ["starter", "rest"])
def test_a_part_written_is_a_snapshot_of_that_part(made: Path, tmp_path: Path, task_name: str, part: Part) -> None:
    rows = get_task(task_name).write_part(made, part, tmp_path)
    if task_name == "traffic-sign":
        snapshot, wanted = load_training_signs(tmp_path, "snapshot"), load_training_signs(made, part)
        np.testing.assert_array_equal(snapshot.images, wanted.images)
    else:
        speeds, expected = load_training_speeds(tmp_path, "snapshot"), load_training_speeds(made, part)
        np.testing.assert_array_equal(speeds.steps, expected.steps)
        np.testing.assert_allclose(speeds.speeds_mph, expected.speeds_mph, rtol=1e-6)
        snapshot, wanted = speeds, expected  # type: ignore[assignment]
    assert rows == len(snapshot) == len(wanted)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("signs-truncated.npz", "truncated or not an npz"),
        ("signs-not-npz.npz", "truncated or not an npz"),
        ("signs-pickled.npz", "field 'png'"),
        ("signs-no-label.npz", "has no field 'label'"),
        ("signs-no-track.npz", "has no field 'track'"),
        ("signs-label-float.npz", "field 'label' is float32"),
        ("signs-label-out-of-range.npz", "field 'label' has 1 to 43"),
        ("signs-offset-past-end.npz", "field 'offset'"),
        ("signs-image-damaged.npz", "image 2 is truncated"),
        ("signs-missing.npz", "--data names the folder"),
    ],
)
def test_broken_signs_are_refused_by_file_and_field(name: str, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        load_signs(VECTORS / name, with_tracks=True)
    assert name in str(caught.value)


def test_the_whole_vector_is_read() -> None:
    assert load_signs(VECTORS / "signs-whole.npz", with_tracks=True).labels.tolist() == [0, 1, 2, 3]


# Speeds


def test_speeds_come_back_as_written(made: Path) -> None:
    rows, adjacency = made_speeds(1, seed=1)
    read = load_speeds(made)
    np.testing.assert_allclose(read.speeds_mph, rows.speeds_mph, rtol=1e-6)
    np.testing.assert_array_equal(read.steps, np.arange(288))
    found = load_adjacency(made, 207)
    assert found is not None
    np.testing.assert_allclose(found, adjacency, rtol=1e-6)


def test_the_published_split_is_four_to_one_and_the_starter_a_sixth_of_it(made: Path) -> None:
    whole, starter, rest, test = (
        load_training_speeds(made, "all"),
        load_training_speeds(made, "starter"),
        load_training_speeds(made, "rest"),
        load_test_speeds(made),
    )
    assert len(whole) == int(288 * 0.8) and len(whole) + len(test) == 288
    assert starter.steps[-1] + 1 == rest.steps[0] and rest.steps[-1] + 1 == test.steps[0]
    assert len(starter) == len(whole) // 6


def test_windows_never_span_a_missing_step() -> None:
    steps = np.r_[0:30, 31:60]
    rows = SpeedRows(steps, np.zeros((59, 2), np.float32), ("a", "b"))
    starts = rows.window_starts(24)
    assert starts.tolist() == [*range(7), *range(30, 36)]
    assert rows.span(0, 23).window_starts(24).tolist() == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("speeds-ragged.csv", "not a table of numbers"),
        ("speeds-text.csv", "slow"),
        ("speeds-nan.csv", "data row 1, column 1: not a finite number"),
        ("speeds-negative.csv", "expected 0 to 200 mph"),
        ("speeds-sensor-twice.csv", "twice in the header"),
        ("speeds-header-too-wide.csv", "3 columns of numbers below a header of 4"),
        ("speeds-empty.csv", "has no rows"),
        (None, "--data names the folder"),
    ],
)
def test_broken_speeds_are_refused_by_file(tmp_path: Path, name: str | None, says: str) -> None:
    (tmp_path / "losloop").mkdir()
    if name is not None:
        shutil.copy(VECTORS / name, tmp_path / "losloop" / "los_speed.csv")
    with pytest.raises(DataError, match=says) as caught:
        load_speeds(tmp_path)
    assert "los_speed.csv" in str(caught.value)


@pytest.mark.parametrize("steps", ["5\n5\n", "7\n6\n", "-1\n0\n", "1\n"])
def test_steps_that_do_not_ascend_are_refused(tmp_path: Path, steps: str) -> None:
    write_speeds(tmp_path, SpeedRows(np.arange(2), np.full((2, 3), 50.0, np.float32), ("a", "b", "c")))
    (tmp_path / "losloop" / "los_step.csv").write_text("step\n" + steps)
    with pytest.raises(DataError, match=r"los_step\.csv"):
        load_speeds(tmp_path)


def test_an_adjacency_of_other_sensors_is_refused(made: Path) -> None:
    with pytest.raises(DataError, match=r"los_adj\.csv.*expected 5 x 5"):
        load_adjacency(made, 5)


# Figures


def test_pooled_errors_are_those_of_the_published_code() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    truth = generator.uniform(10, 70, size=(60, 3)).astype(np.float32)
    rows = SpeedRows(np.arange(60), truth, ("a", "b", "c"))
    forecasts = generator.uniform(10, 70, size=(60 - 15, 3, 12)).astype(np.float32)
    figures = pooled_errors(rows, forecasts)
    for horizon in (3, 6, 9, 12):
        errors, values = [], []
        for start in range(60 - 12 - horizon):  # as in the published code, one window less than there are
            ahead = truth[start + 12 : start + 12 + horizon].T.astype(np.float64)
            errors.append(forecasts[start, :, :horizon] - ahead)
            values.append(ahead)
        error, value = np.stack(errors), np.stack(values)
        minutes = horizon * 5
        assert figures[f"rmse_mph_{minutes}min"] == pytest.approx(np.sqrt((error**2).mean()))
        assert figures[f"mae_mph_{minutes}min"] == pytest.approx(np.abs(error).mean())
        accuracy = 1 - np.linalg.norm(error) / np.linalg.norm(value)
        assert figures[f"accuracy_{minutes}min"] == pytest.approx(accuracy)


def test_the_speed_protocol_measures_the_last_value_forecast(made: Path, tmp_path: Path) -> None:
    bundle = speed_bundle(tmp_path / "bundle")
    variant = bundle.variant("onnx")
    seen: list[tuple[int, int]] = []
    runner = open_runner(bundle, variant)
    found = get_task("traffic-speed").evaluate(bundle, variant, runner, made, lambda *step: seen.append(step))
    test = load_test_speeds(made)
    assert found.rows == len(test) - 15 and seen[-1] == (found.rows, found.rows)
    last = np.stack([np.repeat(test.speeds_mph[start + 11][:, None], 12, 1) for start in range(found.rows)])
    expected = pooled_errors(test, last)
    assert found.metrics == pytest.approx(expected, rel=1e-5)


def test_a_bundle_for_other_sensors_is_refused(tmp_path: Path) -> None:
    bundle: Bundle = speed_bundle(tmp_path / "bundle")
    write_speeds(tmp_path, SpeedRows(np.arange(200), np.full((200, 3), 50.0, np.float32), ("a", "b", "c")))
    variant = bundle.variant("onnx")
    runner = open_runner(bundle, variant)
    with pytest.raises(DataError, match="3 sensors, the model is for 207"):
        get_task("traffic-speed").evaluate(bundle, variant, runner, tmp_path)
