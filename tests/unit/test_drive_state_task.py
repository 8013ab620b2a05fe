"""drive-state: drives read, split and written; made drives; the protocol run through a runner."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from roadloop_models.drive_state.faults import FAULTS
from roadloop_models.drive_state.signals import COUNT, NAMES, SPEED
from roadloop_models.errors import BundleError, DataError
from roadloop_models.preprocess import SpeedScale
from roadloop_models.tasks.drive_state import DriveState
from roadloop_models.tasks.made_obd import CAR_LOGS, CAR_MODES, CAR_ROWS, KIT_DRIVES, KIT_ROWS, made_obd_drives
from roadloop_models.tasks.obd_data import (
    FILES,
    UNKNOWN_STATE,
    ObdDrive,
    Record,
    hold_out,
    load_test_drives,
    load_training_drives,
    read_drives,
    write_drives,
)
from tests.fakes.drive_state_model import BUNDLE, VARIANT, FakeDriveRunner

TASK = DriveState()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    TASK.write_made_data(directory, seed=5)
    return directory


def _names(drives: Sequence[ObdDrive]) -> list[str]:
    return [drive.name for drive in drives]


def test_made_drives_are_seeded_and_of_both_layouts(made: Path) -> None:
    drives = made_obd_drives(5)
    again, other = made_obd_drives(5), made_obd_drives(6)
    assert all(np.array_equal(one.values, two.values) for one, two in zip(drives, again, strict=True))
    assert not np.array_equal(drives[0].values, other[0].values)
    read = read_drives(made, "kit") + read_drives(made, "car")
    assert len(read) == KIT_DRIVES + CAR_LOGS * len(CAR_MODES)
    assert {len(drive.values) for drive in read} == {KIT_ROWS, CAR_ROWS}
    for drive, found in zip(drives, read, strict=True):
        both = np.isfinite(found.values)
        assert np.allclose(found.values[both], drive.values[both], rtol=1e-5, atol=1e-4)
        assert both[:, SPEED].all()
        assert not both.all(axis=0).all(), "each car lacks signals of the other"


def test_no_drive_is_both_trained_on_and_tested_on(made: Path) -> None:
    test = _names(load_test_drives(made, "kit")) + _names(load_test_drives(made, "car"))
    everything, starter, rest = (_names(load_training_drives(made, part)) for part in ("all", "starter", "rest"))
    assert not set(test) & set(everything)
    assert sorted(starter + rest) == sorted(everything)
    assert sorted(everything + test) == sorted(_names(load_training_drives(made, "snapshot")))
    assert _names(load_test_drives(made, "kit")) == ["made_14_Stau", "made_15_Frei", "made_16_Normal", "made_17_Stau"]
    assert _names(load_test_drives(made, "car")) == ["drive7", "drive8", "live7", "live8"]


def test_validation_holds_out_the_last_of_each_mode(made: Path) -> None:
    drives = load_training_drives(made, "all")
    fit, held = hold_out(drives, 0.2)
    assert _names(held) == ["made_11_Stau", "made_12_Frei", "made_13_Normal", "drive6", "live6"]
    assert sorted(_names(fit) + _names(held)) == sorted(_names(drives))


def test_a_snapshot_is_what_it_was_made_of(made: Path, tmp_path: Path) -> None:
    rows = TASK.write_part(made, "rest", tmp_path)
    found, wanted = load_training_drives(tmp_path, "snapshot"), load_training_drives(made, "rest")
    assert rows == sum(len(drive.values) for drive in wanted)
    assert _names(found) == _names(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert np.allclose(one.values, other.values, rtol=1e-5, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("record", ["kit", "car"])
def test_one_record_will_do_for_training(tmp_path: Path, record: Record) -> None:
    write_drives(tmp_path, [drive for drive in made_obd_drives(0) if drive.record == record])
    assert {drive.record for drive in load_training_drives(tmp_path, "all")} == {record}


def test_a_name_tells_the_state_and_whether_the_drive_is_sound() -> None:
    values = np.empty((0, COUNT), np.float32)
    told = {
        "2017-07-05_Seat_Leon_RT_S_Stau": (2, True),
        "2017-07-13_Seat_Leon_RT_KA_Stau_Messfehler": (2, False),
        "2018-02-23_Seat_Leon_RT_RT_Frei_Beschleunigung": (0, True),
        "live12": (UNKNOWN_STATE, True),
    }
    for name, wanted in told.items():
        drive = ObdDrive(name, "kit", values)
        assert (drive.state, drive.sound) == wanted


def test_a_value_outside_its_range_is_unknown(tmp_path: Path) -> None:
    drive = made_obd_drives(0)[0]
    values = drive.values.copy()
    values[3, NAMES.index("MAP")] = 900.0
    write_drives(tmp_path, [ObdDrive(drive.name, "kit", values)])
    (found,) = read_drives(tmp_path, "kit")
    assert np.isnan(found.values[3, NAMES.index("MAP")])
    assert np.isfinite(found.values[4, NAMES.index("MAP")])


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / FILES["kit"]
    with pytest.raises(DataError, match=r"drives\.npz"):
        load_training_drives(tmp_path, "all")
    path.parent.mkdir()
    path.write_bytes(b"no npz")
    with pytest.raises(DataError, match=r"drives\.npz"):
        read_drives(tmp_path, "kit")
    columns = np.array(["speed_kmh", "rpm"])
    np.savez(path, columns=columns, names=np.array(["one"]), one=np.zeros((3, 2), np.float32))
    with pytest.raises(DataError, match=r"drives\.npz"):
        read_drives(tmp_path, "kit")


def test_the_protocol_of_a_model_that_repeats_the_last_speed(made: Path) -> None:
    seen: list[tuple[int, int]] = []
    runner = FakeDriveRunner()
    found = TASK.evaluate(BUNDLE, VARIANT, runner, made, lambda done, total: seen.append((done, total)))
    figures = found.metrics
    assert figures["mae_kmh_10s"] == pytest.approx(figures["mae_kmh_10s_last_value"], abs=1e-4)
    assert figures["better_than_last_value"] == pytest.approx(0.0, abs=1e-5)
    assert figures["car_mae_kmh_10s"] == pytest.approx(figures["car_mae_kmh_10s_last_value"], abs=1e-4)
    assert figures["mae_kmh_10s_linear"] > 0
    assert figures["state_accuracy"] == pytest.approx(figures["windows_normal_as_normal"] / found.rows)
    assert {f"{kind}_{fault}" for kind in ("auc", "found", "named") for fault in FAULTS} <= set(figures)
    assert seen[-1] == (len(runner.shown), len(runner.shown))


def test_a_folder_without_test_windows_or_a_bundle_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_drives(tmp_path, [drive for drive in made_obd_drives(0) if drive.record == "car"])
    with pytest.raises(DataError, match=r"drives\.npz"):
        TASK.evaluate(BUNDLE, VARIANT, FakeDriveRunner(), tmp_path)
    other = type(BUNDLE.manifest)(
        **{name: getattr(BUNDLE.manifest, name) for name in BUNDLE.manifest.__struct_fields__}
        | {"preprocess": SpeedScale().spec}
    )
    with pytest.raises(BundleError, match="preprocess is 'speed-scale', expected 'obd-window'"):
        TASK.preprocessor(other)


@pytest.mark.realdata
def test_the_real_records_are_split_by_drive() -> None:
    data = os.environ.get("ROADLOOP_DATA")
    if not data:
        pytest.skip("ROADLOOP_DATA names no folder of real data")
    kit, car = (load_test_drives(Path(data), record) for record in ("kit", "car"))
    assert len(kit) == 14
    assert kit[0].name.startswith("2018-02-23")
    assert len(car) == 25
    trained = load_training_drives(Path(data), "all")
    assert not set(_names(kit + car)) & set(_names(trained))
    assert sum(not drive.sound for drive in trained) == 1
