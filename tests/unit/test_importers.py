"""Importers: made data sets in their authors' layouts, and the real minute of comma2k19 laid out again as published."""

import math
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from roadloop_cloud.cli import main as cli
from roadloop_cloud.datasets.importers import LAYOUTS, import_layout
from roadloop_models.errors import BadInputError, DataError
from roadloop_models.recordings import read_layout
from roadloop_models.tasks.flow_data import load_test_flow, load_training_flow
from roadloop_models.tasks.localization_data import load_odometer
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.sign_data import load_test_signs, load_training_signs
from roadloop_models.tasks.speed_data import load_adjacency, load_speeds
from tests.fakes.published_layouts import (
    made_record,
    made_segment,
    write_csv_record,
    write_distances,
    write_gtsrb,
    write_h5,
    write_kitti,
    write_pems,
    write_segment,
)

# GTSRB


@pytest.fixture
def gtsrb(tmp_path: Path) -> Path:
    """The folder that the archives were unpacked in."""
    write_gtsrb(tmp_path / "download" / "GTSRB")
    return tmp_path / "download"


def test_gtsrb_comes_with_its_tracks_and_its_test_set(gtsrb: Path, tmp_path: Path) -> None:
    imported = import_layout("gtsrb", gtsrb, tmp_path / "data")
    assert imported.rows == {"gtsrb32/train.npz": 43 * 6, "gtsrb32/test_a.npz": 43} and not imported.notes
    signs, wanted = load_training_signs(tmp_path / "data", "all"), made_signs(2, 3, seed=4)
    assert sorted(signs.labels) == sorted(wanted.labels)
    assert len(np.unique(signs.tracks)) == 86 and (np.bincount(signs.tracks) == 3).all()
    assert np.abs(signs.images[:6].astype(int) - wanted.images[wanted.labels == 0]).mean() < 12, "halved again"
    assert sorted(load_test_signs(tmp_path / "data").labels) == list(range(43))


def test_gtsrb_without_labels_of_its_test_set_is_for_training_alone(gtsrb: Path, tmp_path: Path) -> None:
    (gtsrb / "GTSRB" / "GT-final_test.csv").unlink()
    imported = import_layout("gtsrb", gtsrb, tmp_path / "data")
    assert list(imported.rows) == ["gtsrb32/train.npz"] and "GTSRB_Final_Test_GT.zip" in imported.notes[0]


def test_a_broken_picture_of_gtsrb_is_named_and_nothing_is_written(gtsrb: Path, tmp_path: Path) -> None:
    broken = gtsrb / "GTSRB" / "Final_Training" / "Images" / "00007" / "00001_00002.ppm"
    broken.write_bytes(b"P6\n64")
    with pytest.raises(DataError, match="00001_00002.ppm"):
        import_layout("gtsrb", gtsrb, tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_a_class_beyond_the_last_is_named_by_line(gtsrb: Path, tmp_path: Path) -> None:
    table = gtsrb / "GTSRB" / "Final_Training" / "Images" / "00042" / "GT-00042.csv"
    table.write_text(table.read_text().replace(";42\n", ";43\n"))
    with pytest.raises(DataError, match=r"GT-00042.csv: line 2: .* class '43'"):
        import_layout("gtsrb", gtsrb, tmp_path / "data")


# METR-LA


@pytest.mark.parametrize("form", ["h5", "csv"])
def test_metr_la_is_filled_where_holes_are_short(tmp_path: Path, form: str) -> None:
    source = tmp_path / "download"
    source.mkdir()
    _, speeds, ids = made_record()
    if form == "h5":
        write_h5(source / "metr-la.h5")
    else:
        write_csv_record(source / "metr-la.csv")
    write_distances(source / "distances_la_2012.csv")
    imported = import_layout("metr-la", source, tmp_path / "data")
    rows = load_speeds(tmp_path / "data")
    assert rows.sensor_ids == tuple(ids)
    assert rows.steps.tolist() == [step for step in range(288) if not 100 <= step < 130]
    line = np.interp(np.arange(40, 44), [39, 44], [speeds[39, 3], speeds[44, 3]])
    np.testing.assert_allclose(rows.speeds_mph[40:44, 3], line, rtol=1e-5)
    np.testing.assert_allclose(np.delete(rows.speeds_mph[:100], 3, 1), np.delete(speeds[:100], 3, 1), rtol=1e-5)
    adjacency = load_adjacency(tmp_path / "data", 207)
    assert adjacency is not None and (np.diag(adjacency) == 1).all() and adjacency[0, 1] > 0 == adjacency[1, 0]
    assert "34 of" in imported.notes[0] and "30 of 288 rows" in imported.notes[1]


def test_without_distances_there_is_no_adjacency_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "download").mkdir()
    write_h5(tmp_path / "download" / "metr-la.h5")
    imported = import_layout("metr-la", tmp_path / "download", tmp_path / "data")
    assert load_adjacency(tmp_path / "data", 207) is None and "adjacency" in imported.notes[-1]


def test_an_index_that_is_not_of_times_and_a_pickled_array_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metr-la.h5"
    write_h5(path, kind="integer")
    with pytest.raises(DataError, match="indexed by integer"):
        import_layout("metr-la", tmp_path, tmp_path / "data")
    write_h5(path)
    with h5py.File(path, "a") as file:
        del file["df/block0_items"]
        pickled = file["df"].create_dataset("block0_items", (1,), dtype=h5py.vlen_dtype(np.uint8))
        pickled[0] = np.frombuffer(b"\x80\x04N.", np.uint8)
    with pytest.raises(DataError, match="not plain ones"):
        import_layout("metr-la", tmp_path, tmp_path / "data")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="truncated or not HDF5"):
        import_layout("metr-la", tmp_path, tmp_path / "data")


# PeMS


@pytest.fixture
def pems(tmp_path: Path) -> Path:
    write_pems(tmp_path / "download")
    return tmp_path / "download"


def test_a_station_of_pems_becomes_counts_of_which_the_later_are_for_testing(pems: Path, tmp_path: Path) -> None:
    imported = import_layout("pems", pems, tmp_path / "data", station="400017")
    train, test = load_training_flow(tmp_path / "data", "all"), load_test_flow(tmp_path / "data")
    assert len(train) + len(test) == 575 and imported.tasks == ("traffic-flow",)
    assert train.steps[0] % 288 == 0 and train.flow_veh[:8].tolist() == [1, 2, 3, 4, 5, 6, 7, 9], "the hole stays one"
    assert train.steps[-1] < test.steps[0] and len(test) == round(575 * 0.35)
    assert train.window_starts().tolist() == list(range(7, len(train) - 12)), "none across the hole"


def test_all_stations_of_pems_become_speeds(pems: Path, tmp_path: Path) -> None:
    import_layout("pems", pems, tmp_path / "data")
    rows = load_speeds(tmp_path / "data")
    assert rows.sensor_ids == ("400001", "400017") and len(rows) == 576
    assert (rows.speeds_mph == [60.0, 55.5]).all()


def test_a_truncated_file_of_pems_is_named(pems: Path, tmp_path: Path) -> None:
    path = pems / "d04_text_station_5min_2012_03_01.txt.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=path.name):
        import_layout("pems", pems, tmp_path / "data")


# KITTI


def test_a_kitti_drive_becomes_a_recording_in_our_axes(tmp_path: Path) -> None:
    write_kitti(tmp_path / "download")
    imported = import_layout("kitti-oxts", tmp_path / "download", tmp_path / "data")
    path = tmp_path / "data" / "kitti_oxts" / "2011_09_26_drive_0001_sync.csv"
    (recording,) = read_layout(path)
    assert imported.rows == {"kitti_oxts/2011_09_26_drive_0001_sync.csv": 50} and len(recording.t_s) == 50
    np.testing.assert_allclose(recording.t_s, np.arange(50) / 10, atol=1e-6)
    np.testing.assert_allclose(recording.values["Vehicle.Speed"], 8.0)
    np.testing.assert_allclose(recording.values["Vehicle.CurrentLocation.Speed"], 8.0)
    np.testing.assert_allclose(recording.values["Vehicle.AngularVelocity.Yaw"], 0.1)
    heading = np.unwrap(recording.values["Vehicle.CurrentLocation.Heading"])
    assert heading[0] == pytest.approx(math.pi / 2), "it starts to the east"
    np.testing.assert_allclose(np.diff(heading), -0.01, atol=1e-9)
    assert recording.values["Vehicle.CurrentLocation.Latitude"][7] == pytest.approx(49.000007, abs=1e-9)


def test_packets_without_a_time_of_their_own_are_left_out_and_counted(tmp_path: Path) -> None:
    write_kitti(tmp_path / "download")
    stamps = next((tmp_path / "download").rglob("timestamps.txt"))
    lines = stamps.read_text().splitlines()
    lines[11] = lines[10]
    stamps.write_text("\n".join(lines))
    imported = import_layout("kitti-oxts", tmp_path / "download", tmp_path / "data")
    assert list(imported.rows.values()) == [49] and imported.notes[1].startswith("1 packets")


def test_a_short_packet_and_a_missing_one_are_named(tmp_path: Path) -> None:
    write_kitti(tmp_path / "download")
    packet = next((tmp_path / "download").rglob("0000000009.txt"))
    packet.write_text("49.0 8.4")
    with pytest.raises(DataError, match="0000000009.txt: 2 numbers"):
        import_layout("kitti-oxts", tmp_path / "download", tmp_path / "data")
    packet.unlink()
    with pytest.raises(DataError, match="49 packets below data/, 50 lines"):
        import_layout("kitti-oxts", tmp_path / "download", tmp_path / "data")


# comma2k19


def test_segments_of_comma2k19_become_recordings_and_one_odometer_record(tmp_path: Path) -> None:
    route = tmp_path / "download" / "Chunk_1" / "b0c9d2329ad1606b|2018-08-02--08-34-47"
    for minute in (9, 10):
        write_segment(route / str(minute), made_segment(1000.0 + 60 * minute))
    imported = import_layout("comma2k19", tmp_path / "download", tmp_path / "data")
    names = [f"comma2k19/b0c9d2329ad1606b_2018-08-02--08-34-47_{minute}.npz" for minute in (9, 10)]
    assert list(imported.rows) == [*names, "obd_speed_ref/K19_1_speed.csv"], "minutes in order of number, not of text"
    (recording,) = read_layout(tmp_path / "data" / names[0])
    assert np.nanmean(recording.values["Vehicle.Speed"]) == pytest.approx(14.8)
    odometer = load_odometer(tmp_path / "data")
    stretches = [part for part in odometer.stretches() if len(part)]
    assert len(stretches) == 2 and odometer.t_s[0] == 0
    np.testing.assert_allclose(odometer.odometer_mps, 14.8, rtol=1e-6)
    np.testing.assert_allclose(odometer.reference_mps, 15.0, rtol=1e-6)


def test_a_pickled_array_of_comma2k19_is_refused(tmp_path: Path) -> None:
    write_segment(tmp_path / "route" / "3", made_segment(0.0))
    path = tmp_path / "route" / "3" / "processed_log" / "CAN" / "raw_can" / "data"
    with path.open("wb") as file:
        np.save(file, np.array([b"a", None], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="raw_can/data: truncated, or no plain numpy array"):
        import_layout("comma2k19", tmp_path / "route", tmp_path / "data")


@pytest.mark.realdata
def test_the_real_minute_of_comma2k19_is_the_same_from_its_published_tree(tmp_path: Path) -> None:
    folder = os.environ.get("ROADLOOP_DATA")
    if not folder:
        pytest.skip("ROADLOOP_DATA names no folder of real data")
    real = Path(folder) / "comma2k19" / "segment40.npz"
    with np.load(real, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    route = "b0c9d2329ad1606b|2018-08-02--08-34-47"
    write_segment(tmp_path / "Example_1" / route / "40", arrays)
    import_layout("comma2k19", tmp_path / "Example_1", tmp_path / "data")
    (imported,) = (tmp_path / "data" / "comma2k19").iterdir()
    (one,), (other,) = read_layout(imported), read_layout(real)
    np.testing.assert_array_equal(one.t_s, other.t_s)
    assert one.values.keys() == other.values.keys()
    for path, column in other.values.items():
        np.testing.assert_array_equal(one.values[path], column, err_msg=path)
    odometer = load_odometer(tmp_path / "data")
    travelled_m = [np.trapezoid(mps, odometer.t_s) for mps in (odometer.odometer_mps, odometer.reference_mps)]
    # Of the data's own description: 1,003.8 m by the speed on CAN, 1,011.8 m of path, over the whole minute.
    assert travelled_m == pytest.approx([1003.8, 1011.8], abs=3.0)


# All


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_kitti(tmp_path / "download")
    import_layout("kitti-oxts", tmp_path / "download", tmp_path / "data")
    with pytest.raises(BadInputError, match="there already"):
        import_layout("kitti-oxts", tmp_path / "download", tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["kitti_oxts"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_folder_is_refused_with_what_was_expected(layout: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        import_layout(layout, tmp_path, tmp_path / "data")


def test_an_unknown_layout_and_an_option_without_meaning_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="did you mean 'kitti-oxts'"):
        import_layout("kitti", tmp_path, tmp_path / "data")
    with pytest.raises(BadInputError, match="means nothing to gtsrb"):
        import_layout("gtsrb", tmp_path, tmp_path / "data", station="1")


def test_a_person_imports_with_one_command(tmp_path: Path) -> None:
    write_kitti(tmp_path / "download")
    words = ["dataset", "import", "--layout", "kitti-oxts", "--output", str(tmp_path / "data"), "--json"]
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "download")])
    assert done.exit_code == 0, done.output
    assert '"kitti_oxts/2011_09_26_drive_0001_sync.csv": 50' in done.output
