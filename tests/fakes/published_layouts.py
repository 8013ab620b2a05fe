"""Made data sets in their authors' layouts: what a download of them looks like after unpacking, only smaller."""

import csv
import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import h5py
import numpy as np
import numpy.typing as npt

from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.made_speeds import made_speeds

START = np.datetime64("2012-03-01T00:00", "ns")
STEP = np.timedelta64(5, "m")
Array = npt.NDArray[np.generic]


def write_gtsrb(root: Path) -> None:
    """GTSRB: two tracks of three frames of each of the 43 classes, twice the size; one test picture of each."""
    signs = made_signs(2, 3, seed=4)
    for class_id in range(43):
        folder = root / "Final_Training" / "Images" / f"{class_id:05d}"
        folder.mkdir(parents=True)
        rows: list[tuple[object, ...]] = []
        for row in np.flatnonzero(signs.labels == class_id):
            track = int(signs.tracks[row] - signs.tracks[signs.labels == class_id].min())
            name = f"{track:05d}_{len(rows) % 3:05d}.ppm"
            _write_picture(folder / name, signs.images[row])
            rows.append((name, 64, 64, 5, 5, 59, 59, class_id))
        _write_list(folder / f"GT-{class_id:05d}.csv", rows)
    folder = root / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    tested = made_signs(1, 1, seed=5)
    names = [f"{row:05d}.ppm" for row in range(len(tested))]
    for name, image in zip(names, tested.images, strict=True):
        _write_picture(folder / name, image)
    listed = [(name, 64, 64, 5, 5, 59, 59, int(label)) for name, label in zip(names, tested.labels, strict=True)]
    _write_list(root / "GT-final_test.csv", listed)


def made_record() -> tuple[Array, npt.NDArray[np.float64], list[str]]:
    """METR-LA: times, speeds in mph (a sensor with a hole of 4 steps, one with a hole of 30), sensor ids."""
    rows, _ = made_speeds(1, seed=2)
    speeds = rows.speeds_mph.astype(np.float64)
    speeds[40:44, 3] = 0.0
    speeds[100:130, 5] = 0.0
    return START + STEP * np.arange(len(speeds)), speeds, [str(name) for name in rows.sensor_ids]


def write_h5(path: Path, kind: str = "datetime64") -> None:
    """As pandas' fixed format writes a frame of one dtype."""
    times, speeds, ids = made_record()
    with h5py.File(path, "w") as file:
        group = file.create_group("df")
        names = np.array(ids, dtype="S6")
        for name, array in (("axis0", names), ("block0_items", names), ("block0_values", speeds)):
            group.create_dataset(name, data=array)
        group.create_dataset("axis1", data=times.astype(np.int64)).attrs["kind"] = np.bytes_(kind)


def write_csv_record(path: Path) -> None:
    """The same as text."""
    times, speeds, ids = made_record()
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["", *ids], *([str(time), *row] for time, row in zip(times, speeds.tolist(), strict=True))]
        )


def write_distances(path: Path) -> None:
    """Each sensor is near the next one."""
    _, _, ids = made_record()
    near = [(ids[at], ids[at + 1], 100.0 + at) for at in range(len(ids) - 1)] + [(name, name, 0.0) for name in ids]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("from", "to", "cost"), *near])


def write_pems(source: Path) -> None:
    """PeMS: two days of two stations, one file zipped; the second station misses a count."""
    source.mkdir(parents=True, exist_ok=True)
    for day in (1, 2):
        lines = []
        for step in range(288):
            for station, speed in (("400001", 60.0), ("400017", 55.5)):
                flow = "" if (day, step, station) == (1, 7, "400017") else str(step % 50 + day)
                time = f"03/{day:02d}/2012 {step // 12:02d}:{step % 12 * 5:02d}:00"
                lane = ["50", "1", ".01", "55.5", "1"]
                lines.append([time, station, "4", "80", "W", "ML", ".5", "100", "100", flow, ".02", str(speed), *lane])
        text = "".join(",".join(line) + "\n" for line in lines).encode()
        path = source / f"d04_text_station_5min_2012_03_{day:02d}.txt"
        if day == 1:
            path.with_suffix(".txt.gz").write_bytes(gzip.compress(text))
        else:
            path.write_bytes(text)


def write_kitti(source: Path, count: int = 50) -> None:
    """KITTI: a car that goes in a circle to the left at 8 m/s, 0.1 rad/s."""
    folder = source / "2011_09_26" / "2011_09_26_drive_0001_sync" / "oxts"
    (folder / "data").mkdir(parents=True)
    stamps = []
    for index in range(count):
        yaw = math.remainder(0.1 * 0.1 * index, 2 * math.pi)
        packet = [49.0 + index * 1e-6, 8.4, 112.8, 0.0, 0.0, yaw, 8 * math.sin(yaw), 8 * math.cos(yaw), 8.0, 0.0, 0.0]
        packet += [0.2, 0.8, 9.81, 0.2, 0.8, 9.81, 0.0, 0.0, 0.1, 0.0, 0.0, 0.1, 0.05, 0.01, 4, 9, 6, 6, 6]
        (folder / "data" / f"{index:010d}.txt").write_text(" ".join(map(str, packet)))
        stamps.append(f"2011-09-26 13:02:{25 + index // 10:02d}.{index % 10}94360375")
    (folder / "timestamps.txt").write_text("\n".join(stamps) + "\n")


def write_segment(folder: Path, arrays: dict[str, Array]) -> None:
    """The arrays of one of our npz files as the published tree has them."""
    for name, array in arrays.items():
        kind, _, rest = name.partition("_")
        if kind in ("CAN", "IMU", "GNSS"):
            sensor, _, part = rest.rpartition("_")
            path = folder / "processed_log" / kind / sensor / part
        elif kind == "raw":
            path = folder / "processed_log" / "CAN" / "raw_can" / rest.removeprefix("can_")
        else:
            path = folder / "global_pose" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def made_segment(start_s: float) -> dict[str, Array]:
    """comma2k19: 20 s at 15 m/s; the car says 14.8."""
    can, pose = start_s + np.arange(0, 20, 0.012), start_s + np.arange(0, 20, 0.05)
    imu = start_s + np.arange(0, 20, 0.01)
    here = np.array([-2_712_000.0, -4_256_000.0, 3_882_000.0])
    return {
        "CAN_speed_t": can,
        "CAN_speed_value": np.full((len(can), 1), 14.8),
        "CAN_wheel_speed_t": can,
        "CAN_wheel_speed_value": np.full((len(can), 4), 14.8),
        "CAN_steering_angle_t": can,
        "CAN_steering_angle_value": np.zeros(len(can)),
        "IMU_accelerometer_t": imu,
        "IMU_accelerometer_value": np.tile([0.0, 0.0, -9.8], (len(imu), 1)),
        "IMU_gyro_t": imu,
        "IMU_gyro_value": np.zeros((len(imu), 3)),
        "frame_times": pose,
        "frame_positions": here + np.outer(pose - start_s, [15.0, 0.0, 0.0]),
        "frame_velocities": np.tile([15.0, 0.0, 0.0], (len(pose), 1)),
        "raw_can_t": can,
        "raw_can_src": np.zeros(len(can), np.int64),
        "raw_can_address": np.full(len(can), 0xAA),
        "raw_can_data": np.full(len(can), b"\x01\x02", "S8"),
    }


def _write_picture(path: Path, image: Array) -> None:
    assert cv2.imwrite(str(path), cv2.resize(image, (64, 64), interpolation=cv2.INTER_LINEAR)[:, :, ::-1])


def _write_list(path: Path, rows: Sequence[tuple[object, ...]]) -> None:
    header = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
    path.write_text("".join(";".join(map(str, row)) + "\n" for row in (header, *rows)))


def write_downloads(folder: Path) -> None:
    """One of each."""
    write_gtsrb(folder / "GTSRB")
    (folder / "METR-LA").mkdir()
    write_h5(folder / "METR-LA" / "metr-la.h5")
    write_distances(folder / "METR-LA" / "distances_la_2012.csv")
    write_pems(folder / "PeMS")
    write_kitti(folder / "KITTI")
    write_segment(folder / "comma2k19" / "Chunk_1" / "b0c9d2329ad1606b|2018-08-02--08-34-47" / "40", made_segment(0.0))
