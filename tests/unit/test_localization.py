"""Dead reckoning: the session's arithmetic, what it learns, what it does without a signal, outages of made drives."""

import dataclasses
import math
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadloop_models.errors import DataError, FailedError, ModelInputError
from roadloop_models.geodesy import ecef_from_geodetic, enu_axes, geodetic_from_ecef
from roadloop_models.localization import (
    Drift,
    DriftPostprocess,
    Reference,
    Sample,
    SampleReader,
    Session,
    SpeedTrace,
    SpeedTracePreprocess,
)
from roadloop_models.localization.calibration import SCALE_LIMIT, SpeedCalibration
from roadloop_models.localization.outages import Drive
from roadloop_models.localization.trace import PERIOD_S, WINDOW
from roadloop_models.tasks.base import no_progress
from roadloop_models.tasks.localization import Localization
from roadloop_models.tasks.localization_data import CITY_FILE, load_drive, load_odometer, load_training_odometer
from roadloop_models.tasks.made_drives import MadeDrive, made_drive

ORIGIN = ecef_from_geodetic(np.array([50.0]), np.array([8.0]), np.zeros(1))[0]
AXES = enu_axes(50.0, 8.0)


def place(east_m: float, north_m: float) -> dict[str, float]:
    ecef_m = ORIGIN + np.array([east_m, north_m, 0.0]) @ AXES
    latitude, longitude, _ = geodetic_from_ecef(ecef_m[np.newaxis])
    return {"latitude_deg": float(latitude[0]), "longitude_deg": float(longitude[0])}


def samples_of(drive: MadeDrive) -> list[Sample]:
    """Of a made drive: odometer, gyro, reference speed and position in each."""
    rows = drive.rows
    columns = (rows.t_s, rows.odometer_mps, drive.yaw_rate_rps, rows.reference_mps, drive.east_m, drive.north_m)
    return [
        Sample(t_s, speed, yaw, Reference(reference, **place(east, north)))
        for t_s, speed, yaw, reference, east, north in zip(*(column.tolist() for column in columns), strict=True)
    ]


def hidden(sample: Sample) -> Sample:
    return dataclasses.replace(sample, reference=None)


def test_with_a_reference_the_distance_is_the_references_own() -> None:
    session = Session()
    for row in range(51):
        estimate = session.step(Sample(row * 0.2, 11.0, reference=Reference(speed_mps=10.0)))
    assert estimate.along_m == pytest.approx(100.0) and estimate.sigma_m == 0.0 and estimate.outage_s == 0.0


def test_in_an_outage_a_learned_scale_corrects_the_odometer_and_sigma_grows() -> None:
    session, sigmas = Session(), []
    for row in range(3000):
        seen = Reference(speed_mps=10.0) if row < 2500 else None
        estimate = session.step(Sample(row * 0.2, 10.2, reference=seen))
        sigmas.append(estimate.sigma_m)
        if row == 2500:
            start = estimate
    # 500 s of evidence against a prior that weighs 100 s: most of the 2 % is taken out.
    assert 0.01 < estimate.scale < 0.02
    dead_reckoned_m = estimate.along_m - start.along_m
    true_m = 10.0 * 0.2 * 499
    assert abs(dead_reckoned_m - true_m) < 0.5 * (1.02 * true_m - true_m)
    assert sigmas[2499] == 0.0 and all(np.diff(sigmas[2500:]) > 0)


def test_nothing_before_the_outage_leaves_plain_integration() -> None:
    session = Session()
    for row in range(101):
        estimate = session.step(Sample(row * 0.2, 7.0), lambda trace: Drift(0.5, 0.01))
    assert estimate.along_m == pytest.approx(140.0) and estimate.gain == 0.0 and estimate.outage_s is None


def saying(correction_mps: float, trace: SpeedTrace) -> Drift:
    return Drift(correction_mps, 0.01)


def test_trust_in_the_network_is_earned_before_the_outage() -> None:
    truth = 8.0 + 3.0 * np.sin(np.arange(1500) / 40)
    error = np.where(np.sin(np.arange(1500) / 25) > 0, 0.4, -0.2)
    for says, low, high in ((error, 0.9, 1.0), (-error, 0.0, 0.0)):
        session = Session()
        for row in range(1500):
            sample = Sample(row * 0.2, truth[row] + error[row], reference=Reference(speed_mps=float(truth[row])))
            estimate = session.step(sample, partial(saying, float(says[row])))
        assert low <= estimate.gain <= high


@given(st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(-60, 60), st.floats(-1, 1), st.floats(-60, 60)), max_size=40))
def test_whatever_it_sees_the_calibration_stays_bounded(intervals: list[tuple[float, float, float, float]]) -> None:
    calibration = SpeedCalibration()
    for interval in intervals:
        calibration.learn(*interval)
    found = calibration.correction
    assert abs(found.scale) <= SCALE_LIMIT and 0.0 <= found.gain <= 1.0
    assert found.apply(10.0, 0.5) >= 0.0 and found.apply(0.0, 5.0) == 0.0


def test_later_samples_change_no_estimate_and_a_hidden_reference_has_no_influence() -> None:
    samples = samples_of(made_drive(120.0, seed=5))
    wrong = dataclasses.replace(samples[400], reference=Reference(speed_mps=99.0, latitude_deg=0.0, longitude_deg=0.0))
    first, second = Session(), Session()
    for row, sample in enumerate(samples):
        other = wrong if row > 400 else sample
        outage = 300 <= row <= 400
        left = first.step(hidden(sample) if outage else sample)
        right = second.step(hidden(other) if outage else other)
        if row <= 400:
            assert left == right


def test_a_made_drive_is_followed_through_an_outage_better_than_by_plain_integration() -> None:
    drive = Drive(samples_of(made_drive(400.0, seed=3)))
    ended = drive.run(dict.fromkeys(drive.starts(60.0, 100.0, 20.0), (60.0,)), WINDOW, None, no_progress)[60.0]
    assert len(ended) >= 10
    assert np.mean([one.position_m for one in ended]) < np.mean([one.plain_position_m for one in ended])
    assert np.mean([one.position_m < one.position_sigma_m for one in ended]) >= 0.4


def test_when_the_fix_comes_back_position_and_heading_are_corrected() -> None:
    drive = made_drive(300.0, seed=4, gyro_bias_rps=0.01)
    session = Session()
    for row, sample in enumerate(samples_of(drive)):
        # The gyro's bias steps in the outage: dead reckoning leaves the road, and is fetched back.
        bias = 0.02 if 700 <= row < 900 else 0.0
        strayed = dataclasses.replace(sample, yaw_rate_rps=(sample.yaw_rate_rps or 0.0) + bias)
        estimate = session.step(hidden(strayed) if 700 <= row < 900 else strayed)
        error_m = (
            math.hypot(estimate.east_m - drive.east_m[row], estimate.north_m - drive.north_m[row]) if row > 300 else 0
        )
        if row == 899:
            assert error_m > 5.0
    assert error_m < 2.0


@pytest.mark.parametrize("name", ["Vehicle.Speed", "Vehicle.AngularVelocity.Yaw"])
def test_a_signal_that_stops_is_named_and_makes_sigma_grow(name: str) -> None:
    sound, lame = Session(), Session()
    for row, seen in enumerate(samples_of(made_drive(120.0, seed=6))):
        sample = hidden(seen) if row >= 300 else seen
        lacking = {
            "Vehicle.Speed": dataclasses.replace(sample, speed_mps=None),
            "Vehicle.AngularVelocity.Yaw": dataclasses.replace(sample, yaw_rate_rps=None),
        }
        cut = lacking[name] if row >= 300 else sample
        whole, left = sound.step(sample), lame.step(cut)
        if row >= 306:
            assert left.missing == (name,) and whole.missing == ()
    assert left.position_sigma_m is not None and whole.position_sigma_m is not None
    assert left.position_sigma_m > 1.5 * whole.position_sigma_m
    if name == "Vehicle.Speed":
        assert left.sigma_m > 2 * whole.sigma_m


@pytest.mark.parametrize("jump_s", [-5.0, 10 * 365 * 86_400.0])
def test_a_clock_that_jumps_begins_a_new_drive(jump_s: float) -> None:
    session = Session()
    for row in range(100):
        session.step(Sample(row * 0.2, 10.0, reference=Reference(speed_mps=10.0)))
    estimate = session.step(Sample(99 * 0.2 + jump_s, 10.0))
    assert estimate.along_m == 0.0 and estimate.outage_s is None
    assert session.step(Sample(99 * 0.2 + jump_s + 0.2, 10.0)).along_m == pytest.approx(2.0)


def test_positions_without_a_speed_tell_the_distance_too() -> None:
    session = Session()
    for row in range(101):
        estimate = session.step(Sample(row * 0.2, 10.1, 0.0, Reference(**place(0.0, row * 2.0))))
    assert estimate.along_m == pytest.approx(200.0, abs=0.05)
    assert estimate.north_m == pytest.approx(200.0, abs=0.5) and estimate.heading_rad is not None


def test_signals_become_a_sample_and_a_held_reference_is_not_used_while_driving() -> None:
    read = SampleReader()
    wheels = {f"Vehicle.Chassis.Axle.Row{row}.Wheel.{side}.Speed": 5.0 for row in (1, 2) for side in ("Left", "Right")}
    location = {"Vehicle.CurrentLocation.Latitude": 50.0, "Vehicle.CurrentLocation.Longitude": 8.0}
    first = read(0.0, wheels | location | {"Vehicle.Speed": math.nan})
    assert first.speed_mps == 5.0 and first.yaw_rate_rps is None
    assert first.reference is not None and first.reference.has_position and first.reference.speed_mps is None
    assert read(0.1, wheels | location).reference is None
    assert read(0.2, {"Vehicle.Speed": 0.0} | location).reference is not None
    assert read(0.3, {"Vehicle.OBD.Speed": 3.0}) == Sample(0.3, 3.0)


def test_the_traces_channels_are_those_that_the_network_was_taught() -> None:
    speeds = np.zeros(WINDOW + 1, dtype=np.float32)
    speeds[-2:] = 10.0, 10.5
    (tensor,) = SpeedTracePreprocess()(SpeedTrace(speeds))
    assert tensor.shape == (1, WINDOW, 3) and tensor.dtype == np.float32
    assert tensor[0, -1].tolist() == pytest.approx([0.525, 0.5, 0.0])
    assert tensor[0, -2].tolist() == pytest.approx([0.5, 1.0, 0.0])  # the step up is clipped
    assert tensor[0, 0].tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(ModelInputError, match=r"expected float32 \[31\]"):
        SpeedTracePreprocess()(SpeedTrace(speeds[1:]))


def test_a_networks_answer_is_bounded_and_must_be_finite() -> None:
    decode = DriftPostprocess()
    assert decode((np.array([[100.0, 0.0]], np.float32),)).correction_mps == 0.5
    assert decode((np.array([[-2.0, 0.0]], np.float32),)).correction_mps == pytest.approx(-0.2)
    with pytest.raises(FailedError, match="not finite"):
        decode((np.array([[np.nan, 0.0]], np.float32),))
    with pytest.raises(ModelInputError, match=r"expected \[1, 2\]"):
        decode((np.zeros((1, 3), np.float32),))


def test_the_network_runs_five_times_a_second_whatever_the_samples_rate() -> None:
    asked: list[SpeedTrace] = []

    def estimate_drift(trace: SpeedTrace) -> Drift:
        asked.append(trace)
        return Drift(0.0, 0.01)

    session = Session()
    for row in range(1001):
        session.step(Sample(row * 0.01, row * 0.01), estimate_drift)
    assert len(asked) == 51
    assert asked[-1].speeds_mps == pytest.approx(10.0 - PERIOD_S * np.arange(WINDOW, -1, -1), abs=1e-5)


def test_made_data_is_seeded_and_split_by_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Localization().write_made_data(tmp_path / name, seed=1)
    rows, again = load_odometer(tmp_path / "a"), load_odometer(tmp_path / "b")
    assert np.array_equal(rows.odometer_mps, again.odometer_mps)
    assert load_drive(tmp_path / "a" / CITY_FILE).has_positions
    parts = {part: load_training_odometer(tmp_path / "a", part) for part in ("all", "starter", "rest", "snapshot")}
    assert len(parts["starter"]) + len(parts["rest"]) == len(parts["all"]) < len(parts["snapshot"]) == len(rows)
    assert parts["all"].t_s[0] == rows.t_s[int(0.4 * len(rows))]
    written = Localization().write_part(tmp_path / "a", "rest", tmp_path / "c")
    assert written == len(parts["rest"])
    assert load_training_odometer(tmp_path / "c", "snapshot").odometer_mps == pytest.approx(
        parts["rest"].odometer_mps, abs=1e-6
    )


def test_rows_that_go_back_in_time_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "obd_speed_ref" / "K19_1_speed.csv"
    path.parent.mkdir()
    path.write_text("gps_sec,ref_vf,obd_speed\n1,1,1\n3,1,1\n2,1,1\n")
    with pytest.raises(DataError, match=r"K19_1_speed.csv: 'gps_sec' does not ascend at data row 2"):
        load_odometer(tmp_path)


@pytest.mark.realdata
def test_the_arithmetic_alone_beats_plain_integration_in_berlin() -> None:
    data = os.environ.get("ROADLOOP_DATA")
    if data is None:
        pytest.skip("ROADLOOP_DATA names no data folder")
    drive = load_drive(Path(data) / CITY_FILE)
    ended = drive.run(dict.fromkeys(drive.starts(60.0, 60.0, 5.0), (60.0,)), WINDOW, None, no_progress)[60.0]
    distance_m = sum(one.distance_m for one in ended)
    assert 100 * sum(one.position_m for one in ended) / distance_m < 3.2
    assert sum(one.position_m for one in ended) < sum(one.plain_position_m for one in ended)
