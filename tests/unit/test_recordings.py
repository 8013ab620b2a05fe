"""Recorded drives: reading tables, and the layouts of public data sets on made files and on the real ones."""

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from roadloop_models.errors import ConfigError, DataError
from roadloop_models.geodesy import ecef_from_geodetic, enu_axes, geodetic_from_ecef
from roadloop_models.recordings import merged, read_layout
from roadloop_models.recordings.columns import read_csv_columns
from roadloop_models.signals import VSS, conversion, known_units

SPEED, REFERENCE = "Vehicle.Speed", "Vehicle.CurrentLocation.Speed"


def test_units_are_converted_to_those_of_the_catalogue() -> None:
    assert conversion("km/h", VSS[SPEED].unit) == pytest.approx((1 / 3.6, 0))
    assert conversion("deg/s", "rad/s")[0] == pytest.approx(math.pi / 180)
    factor, offset = conversion("degF", "degC")
    assert 212 * factor + offset == pytest.approx(100) and 32 * factor + offset == pytest.approx(0)
    with pytest.raises(ConfigError, match="'kmh' cannot be converted to m/s; did you mean 'km/h'"):
        conversion("kmh", "m/s")


def test_every_unit_of_the_catalogue_is_known_and_every_range_is_one() -> None:
    for spec in VSS.values():
        assert spec.unit in known_units(spec.unit) and spec.low < spec.high and spec.stale_s > 0
        assert spec.path.startswith("Vehicle.")


def test_a_position_comes_back_from_the_earths_centre() -> None:
    latitude = np.array([52.5, -33.9, 0.0, 89.9, -90.0])
    longitude = np.array([13.4, 151.2, -180.0, 20.0, 0.0])
    height = np.array([76.0, -30.0, 8848.0, 0.0, 100.0])
    found = geodetic_from_ecef(ecef_from_geodetic(latitude, longitude, height))
    assert found[0] == pytest.approx(latitude, abs=1e-10)
    assert np.cos(np.radians(found[1] - longitude)) == pytest.approx(1)
    assert found[2] == pytest.approx(height, abs=1e-5)


def test_a_degree_to_the_north_points_north() -> None:
    here, there = ecef_from_geodetic(np.array([50.0, 50.0001]), np.array([8.0, 8.0]), np.zeros(2))
    east_m, north_m, up_m = enu_axes(50.0, 8.0) @ (there - here)
    assert abs(east_m) < 1e-6 and 11.0 < north_m < 11.2 and abs(up_m) < 1e-3


def test_parts_are_merged_in_the_order_of_time_with_gaps_marked() -> None:
    whole = merged(
        "x", [(np.array([0.0, 2.0]), {"a": np.array([1.0, 3.0])}), (np.array([1.0, 2.0]), {"b": np.ones(2)})]
    )
    assert list(whole.rows()) == [(0.0, {"a": 1.0}), (1.0, {"b": 1.0}), (2.0, {"a": 3.0, "b": 1.0})]


def test_cells_that_are_no_numbers_are_missing_and_broken_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("t,v\n331955.625,\n331955.75,nan\n331955.875,1e3\n")
    table = read_csv_columns(path)
    assert table["t"].tolist() == [331955.625, 331955.75, 331955.875]
    assert np.isnan(table["v"][:2]).all() and table["v"][2] == 1000
    path.write_text("t,v\n1,2\n3\n")
    with pytest.raises(DataError, match=r"x\.csv: line 3: 1 cells, 2 before"):
        read_csv_columns(path)
    path.write_text("t,v\n")
    with pytest.raises(DataError, match="has no rows"):
        read_csv_columns(path)


def test_a_speed_log_with_a_reference(tmp_path: Path) -> None:
    path = tmp_path / "drive.csv"
    path.write_text("gps_sec,ref_vf,obd_speed,ref_vf_sorted\n10.2,1.5,1.25,0\n10.4,2.5,2.25,0\n")
    (recording,) = read_layout(path)
    assert (recording.name, recording.t_s.tolist()) == ("drive", [10.2, 10.4])
    assert recording.values[SPEED].tolist() == [1.25, 2.25]
    assert recording.values[REFERENCE].tolist() == [1.5, 2.5]


def test_obd_drives_are_converted_and_missing_values_stay_missing(tmp_path: Path) -> None:
    from roadloop_models.recordings.layouts import KIT_OBD

    rows = np.full((3, len(KIT_OBD)), np.nan, np.float32)
    rows[1, list(KIT_OBD).index("speed_kmh")] = 36
    np.savez(
        tmp_path / "d.npz", columns=np.array(list(KIT_OBD)), names=np.array(["b", "a"]), a=rows, b=rows, other=rows
    )
    recordings = list(read_layout(tmp_path / "d.npz"))
    assert [recording.name for recording in recordings] == ["b", "a"]
    rows_of_b = list(recordings[0].rows())
    assert [t_s for t_s, _ in rows_of_b] == [0.0, 0.5, 1.0]
    assert rows_of_b[0][1] == rows_of_b[2][1] == {} and rows_of_b[1][1] == {"Vehicle.OBD.Speed": pytest.approx(10.0)}


def test_odometry_with_a_truth_beside_it(tmp_path: Path) -> None:
    (tmp_path / "odom.txt").write_text("odom3 0.5 3 0 0 0 0 -0.25 1 1 1 1 1 1\n")
    x, y, z = ecef_from_geodetic(np.array([50.0]), np.array([8.0]), np.array([100.0]))[0]
    (tmp_path / "gt.txt").write_text(f"point3 0.5 {float(x)} {float(y)} {float(z)} 0 0 0\n")
    (recording,) = read_layout(tmp_path)
    ((t_s, row),) = recording.rows()
    assert t_s == 0.5 and row[SPEED] == 3 and row["Vehicle.AngularVelocity.Yaw"] == -0.25
    assert row["Vehicle.CurrentLocation.Latitude"] == pytest.approx(50)


def test_what_is_of_no_known_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("when,what\n1,2\n")
    with pytest.raises(DataError, match=r"no layout that is known \(its header: when, what\)"):
        read_layout(tmp_path / "x.csv")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(DataError, match=r"no layout that is known \(it has a\)"):
        read_layout(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=r"y\.npz: truncated or not an npz"):
        read_layout(tmp_path / "y.npz")
    (tmp_path / "odom.txt").write_text("odom3 0.5 fast\n")
    with pytest.raises(DataError, match=r"odom\.txt: line 1"):
        read_layout(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        read_layout(tmp_path / "nowhere.csv")


def test_an_imu_log_is_turned_to_the_vehicles_axes(tmp_path: Path) -> None:
    path = tmp_path / "imu.csv"
    path.write_text("0.5,-0.25,1,2,3,90,1000\n0,0,1,0,0,0,1010\n")
    path.with_name("imu.csv.tag").write_bytes(b"TIMETAG".ljust(60, b"\0") + struct.pack("<IId", 7, 1_752_003_261, 0.5))
    (recording,) = read_layout(path)
    _, row = next(recording.rows())
    assert recording.t_s[1] - recording.t_s[0] == pytest.approx(0.01, abs=1e-6)
    assert row["Vehicle.Acceleration.Longitudinal"] == pytest.approx(-0.5 * 9.80665)
    assert row["Vehicle.Acceleration.Lateral"] == pytest.approx(0.25 * 9.80665)
    assert row["Vehicle.AngularVelocity.Yaw"] == pytest.approx(math.pi / 2)


@pytest.mark.realdata
@pytest.mark.skipif("ROADLOOP_DATA" not in os.environ, reason="ROADLOOP_DATA names no data")
class TestRealData:
    """What was measured of each file, recomputed from what the layout gives."""

    data = Path(os.environ.get("ROADLOOP_DATA", "."))

    def test_the_reference_speed_is_near_that_of_obd(self) -> None:
        (drive,) = read_layout(self.data / "obd_speed_ref" / "K19_1_speed.csv")
        error = drive.values[SPEED] - drive.values[REFERENCE]
        assert len(drive.t_s) == 12_517 and np.sqrt(np.mean(error**2)) == pytest.approx(0.241, abs=5e-4)

    @pytest.mark.parametrize(
        ("name", "sign_floor"),
        [("smartloc_berlin/odom.txt", 0.8), ("comma2k19/segment40.npz", 0.75), ("imu_rtk_drive/imu_1934.csv", 0.97)],
    )
    def test_a_turn_to_the_left_has_a_positive_yaw_rate(self, name: str, sign_floor: float) -> None:
        """The course that the positions take turns as the gyro says."""
        (drive,) = read_layout(self.data / name)
        yaw = drive.values["Vehicle.AngularVelocity.Yaw"]
        latitude = drive.values["Vehicle.CurrentLocation.Latitude"]
        placed, turned = np.isfinite(latitude), np.isfinite(yaw)
        t_s = drive.t_s[placed]
        step_s = 0.25
        grid = np.arange(max(t_s[0], drive.t_s[turned][0]), min(t_s[-1], drive.t_s[turned][-1]), step_s)
        north = np.interp(grid, t_s, np.radians(latitude[placed])) * 6.37e6
        longitude = np.radians(drive.values["Vehicle.CurrentLocation.Longitude"][placed])
        east = np.interp(grid, t_s, longitude) * 6.37e6 * math.cos(math.radians(latitude[placed][0]))
        north_mps, east_mps = np.gradient(north, step_s), np.gradient(east, step_s)
        rate = np.gradient(np.unwrap(np.arctan2(north_mps, east_mps)), step_s)
        moving = np.hypot(north_mps, east_mps) > 3
        integral = np.concatenate([[0], np.cumsum(yaw[turned][1:] * np.diff(drive.t_s[turned]))])
        gyro = np.gradient(np.interp(grid, drive.t_s[turned], integral), step_s)
        smooth = np.ones(5) / 5
        measured, told = (np.convolve(x, smooth, "same")[moving] for x in (rate, gyro))
        assert np.corrcoef(measured, told)[0, 1] > sign_floor

    def test_all_obd_drives_are_there_and_mostly_plausible(self) -> None:
        for name, drives, hours, rate_hz in (("kit_obd/drives.npz", 63, 51.0, 2), ("car_obd/logs.npz", 100, 32.1, 2)):
            recordings = list(read_layout(self.data / name))
            assert len(recordings) == drives
            assert sum(len(r.t_s) for r in recordings) / rate_hz / 3600 == pytest.approx(hours, abs=0.06)
            speed = np.concatenate([recording.values["Vehicle.OBD.Speed"] for recording in recordings])
            assert np.nanmin(speed) >= 0 and np.nanmax(speed) < 70
