"""Sources of signals: recorded and live feeds, what they give and how they fail."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from roadloop_agent.drive.frames import Item, refuse
from roadloop_agent.drive.sources.signals.opening import open_made, open_replay
from roadloop_agent.signals_config import MadeDriveSource, SignalsSource
from roadloop_models.errors import ConfigError, DataError, RoadloopError
from roadloop_models.signals import Quality, SignalFrame

SPEED, YAW, LATITUDE = "Vehicle.Speed", "Vehicle.AngularVelocity.Yaw", "Vehicle.CurrentLocation.Latitude"
TEN_YEARS_S = 315_576_000.0
DBC = """VERSION ""
BU_: A
BO_ 180 SPEED: 8 A
 SG_ SPEED : 47|16@0+ (0.01,0) [0|250] "km/h" A
BO_ 36 KINEMATICS: 8 A
 SG_ YAW_RATE : 1|10@0+ (0.25,-125) [0|65535] "deg/s" A
"""


def source(**table: Any) -> SignalsSource:
    return msgspec.convert({"kind": "signals", **table}, SignalsSource)


def can_source(path: str, **feed: Any) -> SignalsSource:
    return source(
        feeds=[{"kind": "can-log", "path": path, "dbc": ["car.dbc"], **feed}],
        signals={SPEED: {"from": "SPEED.SPEED"}, YAW: {"from": "KINEMATICS.YAW_RATE"}},
    )


def speed_frame(speed_mps: float) -> bytes:
    return bytes(5) + round(speed_mps * 360).to_bytes(2, "big") + b"\0"


def yaw_frame(raw: int) -> bytes:
    return raw.to_bytes(2, "big") + bytes(6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A DBC, and two seconds of two messages at 20 Hz: speed rises from 10 m/s by 1 m/s a second."""
    (tmp_path / "car.dbc").write_text(DBC)
    return tmp_path


def recorded() -> Iterator[tuple[float, int, bytes]]:
    for number in range(40):
        t_s = 1000 + number * 0.05
        yield t_s, 180, speed_frame(10 + number * 0.05)
        yield t_s + 0.01, 36, yaw_frame(520)
        yield t_s + 0.02, 999, bytes(8)


def write_log(path: Path, bus: str = "can0") -> Path:
    from can import Logger, Message

    with Logger(path) as logger:
        logger.on_message_received(
            Message(timestamp=1000, arbitration_id=4, is_error_frame=True, is_extended_id=False, channel=0)
        )
        for t_s, address, data in recorded():
            logger.on_message_received(
                Message(timestamp=t_s, arbitration_id=address, data=data, is_extended_id=False, channel=0)
            )
    return path


def write_npz(path: Path) -> Path:
    rows = list(recorded())
    np.savez(
        path,
        t=np.array([row[0] for row in rows]),
        src=np.zeros(len(rows), np.int64),
        address=np.array([row[1] for row in rows]),
        data=np.array([row[2] for row in rows], "S8"),
    )
    return path


def frames(items: list[Item]) -> list[SignalFrame]:
    return [item.data for item in items]


def read(folder: Path, table: SignalsSource, wanted: tuple[str, ...] | None = None) -> list[Item]:
    return list(open_replay(table, folder, wanted).frames(refuse))


@pytest.mark.parametrize("suffix", ["log", "blf", "asc", "npz"])
def test_every_kind_of_log_gives_the_same_frames(folder: Path, suffix: str) -> None:
    path = folder / f"drive.{suffix}"
    write_npz(path) if suffix == "npz" else write_log(path)
    items = read(folder, can_source(path.name))
    assert [item.number for item in items] == list(range(20))
    # An .asc says times from its own start.
    start_s = frames(items)[0].t_s
    assert [item.t_source_s for item in items] == pytest.approx([start_s + number / 10 for number in range(20)])
    speeds = [frame.values[SPEED] for frame in frames(items)]
    assert speeds == pytest.approx([10 + number / 10 for number in range(20)], abs=0.06)
    assert frames(items)[0].quality[YAW] is Quality.NEVER
    assert frames(items)[5].values[YAW] == pytest.approx(math.radians(5.0))


def test_one_bus_of_several_is_read(folder: Path) -> None:
    (folder / "two.log").write_text(
        f"(1000.0) can0 0B4#{speed_frame(10).hex()}\n(1000.2) can1 0B4#{speed_frame(50).hex()}\n"
        f"(1000.4) can0 0B4#{speed_frame(11).hex()}\n"
    )
    one = frames(read(folder, can_source("two.log", bus="can0")))
    assert [frame.values[SPEED] for frame in one] == pytest.approx([10, 10, 10, 10, 11])
    with pytest.raises(DataError, match="no CAN frame of bus can7; it has can0, can1"):
        read(folder, can_source("two.log", bus="can7"))
    write_npz(folder / "drive.npz")
    with pytest.raises(DataError, match="no frame of bus 3; it has 0"):
        read(folder, can_source("drive.npz", bus=3))


def test_a_log_that_is_cut_off_gives_what_it_has(folder: Path) -> None:
    path = write_log(folder / "drive.log")
    path.write_text(path.read_text() + "(1002.0) can0 0B")
    told: list[RoadloopError] = []
    items = list(open_replay(can_source("drive.log"), folder, None).frames(told.append))
    assert len(items) == 20
    assert len(told) == 1 and "drive.log: broken after 120 frames" in str(told[0])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("noise.blf", b"LOGG" + bytes(range(256)) * 4, r"noise\.blf: (broken|no CAN frame)"),
        ("noise.log", b"\x00\xff not a log\n", r"noise\.log: broken after 0 frames"),
        ("empty.log", b"", r"empty\.log: no CAN frame"),
        ("cut.npz", b"PK\x03\x04", r"cut\.npz: truncated or not an npz"),
        ("drive.txt", b"", r"drive\.txt: a CAN log is one of"),
        ("gone.log", None, r"gone\.log: there is no such file"),
    ],
)
def test_what_is_no_log_is_refused_by_name(folder: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises((DataError, ConfigError), match=says):
        read(folder, can_source(name))


def test_a_dbc_that_does_not_fit_the_bus_is_told_and_nothing_is_decoded(folder: Path) -> None:
    (folder / "car.dbc").write_text(DBC.replace("SPEED: 8 A", "SPEED: 7 A"))
    write_log(folder / "drive.log")
    told: list[RoadloopError] = []
    items = list(open_replay(can_source("drive.log"), folder, None).frames(told.append))
    assert {frame.quality[SPEED] for frame in frames(items)} == {Quality.NEVER}
    assert frames(items)[5].quality[YAW] is Quality.OK
    assert isinstance(told[-1], ConfigError) and "SPEED (0xB4): 40 of 40 frames have another length" in str(told[-1])


def test_only_wanted_signals_are_read_and_all_of_them_are_in_every_frame(folder: Path) -> None:
    write_log(folder / "drive.log")
    replay = open_replay(can_source("drive.log"), folder, (SPEED, LATITUDE))
    frame = frames(list(replay.frames(refuse)))[3]
    assert set(frame.values) == set(frame.quality) == {SPEED, LATITUDE}
    assert frame.quality[LATITUDE] is Quality.NEVER


def test_a_table_with_gaps_nan_and_another_unit(folder: Path) -> None:
    lines = [f"{number * 200},{36 + number},{'' if number > 5 else 0.1}" for number in range(20)]
    (folder / "drive.csv").write_text("\n".join(["ms,kmh,yaw", *lines]) + "\n")
    table = source(
        rate_hz=5,
        feeds=[{"kind": "csv", "path": "drive.csv", "time": "ms", "time_unit": "ms"}],
        signals={SPEED: {"from": "kmh", "unit": "km/h", "max": 14.9}, YAW: {"from": "yaw", "stale_s": 0.5}},
    )
    found = frames(read(folder, table))
    assert found[0].values[SPEED] == pytest.approx(10) and found[1].t_s == pytest.approx(0.2)
    assert [frame.quality[YAW] for frame in found] == [Quality.OK] * 8 + [Quality.STALE] * 12
    assert found[-1].quality[SPEED] is Quality.OUT_OF_RANGE and math.isnan(found[-1].values[SPEED])


@pytest.mark.parametrize("jump_s", [TEN_YEARS_S, -TEN_YEARS_S])
def test_a_recorded_clock_that_jumps_ten_years_loses_no_frame(folder: Path, jump_s: float) -> None:
    stamps = [0.1 * number + (jump_s if number >= 10 else 0) for number in range(30)]
    (folder / "drive.csv").write_text(
        "\n".join(["t,v", *(f"{stamp:.6f},{number}" for number, stamp in enumerate(stamps))])
    )
    table = source(feeds=[{"kind": "csv", "path": "drive.csv", "time": "t"}], signals={SPEED: {"from": "v"}})
    told: list[RoadloopError] = []
    items = list(open_replay(table, folder, None).frames(told.append))
    times = [frame.t_s for frame in frames(items)]
    # Of a step whose length is not known no frame is made.
    assert len(items) in (28, 29) and max(np.diff(times)) == pytest.approx(0.1, abs=1e-6)
    assert [frame.values[SPEED] for frame in frames(items)][-1] in (28, 29)
    assert len(told) == 1 and "its clock jumped by" in str(told[0])


def test_feeds_are_merged_by_their_time(folder: Path) -> None:
    write_log(folder / "drive.log")
    np.savez(folder / "gyro.npz", t=np.arange(1000, 1002, 0.1), w=np.stack([np.zeros(20), np.full(20, 9.0)], axis=1))
    table = source(
        feeds=[
            {"kind": "can-log", "path": "drive.log", "dbc": ["car.dbc"], "name": "bus"},
            {"kind": "npz", "path": "gyro.npz", "time": "t", "name": "imu"},
        ],
        signals={
            SPEED: {"from": "SPEED.SPEED", "feed": "bus"},
            YAW: {"from": "w.1", "feed": "imu", "unit": "deg/s"},
        },
    )
    found = frames(read(folder, table))
    assert found[0].quality == {SPEED: Quality.OK, YAW: Quality.OK}
    assert found[7].values == {SPEED: pytest.approx(10.7, abs=0.06), YAW: pytest.approx(math.radians(9))}


def test_a_replay_that_begins_again_goes_on_in_time_and_number(folder: Path) -> None:
    write_log(folder / "drive.log")
    replay = open_replay(can_source("drive.log"), folder, None)
    first, second = list(replay.frames(refuse)), list(replay.frames(refuse))
    assert [item.number for item in second] == list(range(20, 40))
    times = [frame.t_s for frame in frames([*first, *second])]
    assert np.diff(times) == pytest.approx(0.1)


def test_recorded_sentences_are_read_without_a_mapping(folder: Path) -> None:
    from tests.unit.test_signals_nmea import sentence

    body = "GNRMC,1235{:05.2f},A,4807.{:03d},N,01131.000,E,022.4,084.4,230394,003.1,W,A"
    lines = [sentence(body.format(10 + number * 0.5, number)) for number in range(20)]
    (folder / "gnss.nmea").write_bytes(b"".join([*lines, b"$GNRMC,broken*00\r\n"]))
    table = source(feeds=[{"kind": "nmea-log", "path": "gnss.nmea"}], rate_hz=2, signals={LATITUDE: {"max": 48.1168}})
    told: list[RoadloopError] = []
    found = frames(list(open_replay(table, folder, (LATITUDE, SPEED)).frames(told.append)))
    assert len(found) == 20 and found[0].values[LATITUDE] == pytest.approx(48 + 7 / 60)
    assert found[-1].quality[LATITUDE] is Quality.OUT_OF_RANGE and found[0].quality[SPEED] is Quality.NEVER
    assert "1 lines are damaged" in str(told[-1])
    (folder / "empty.nmea").write_bytes(b"nothing\r\n")
    with pytest.raises(DataError, match="no RMC sentence"):
        read(folder, source(feeds=[{"kind": "nmea-log", "path": "empty.nmea"}]))


def test_a_known_layout_needs_no_mapping_and_the_first_feed_wins(folder: Path) -> None:
    for name, speed in (("a", 5), ("b", 7)):
        (folder / f"{name}.csv").write_text(f"gps_sec,ref_vf,obd_speed\n10,1,{speed}\n10.1,1,{speed}\n")
    feeds = [{"kind": "layout", "path": "a.csv"}, {"kind": "layout", "path": "b.csv", "name": "second"}]
    assert frames(read(folder, source(feeds=feeds)))[0].values[SPEED] == 5
    chosen = source(feeds=feeds, signals={SPEED: {"feed": "second"}})
    assert frames(read(folder, chosen))[1].values[SPEED] == 7
    with pytest.raises(ConfigError, match=r"no drive 'c'; (did you mean|known are) .*a"):
        read(folder, source(feeds=[{"kind": "layout", "path": "a.csv", "drive": "c"}]))


@pytest.mark.parametrize(
    ("feed", "signal", "says"),
    [
        ({"kind": "csv", "path": "drive.csv", "time": "time"}, "v", r"no column 'time'; did you mean 'times'"),
        ({"kind": "csv", "path": "drive.csv", "time": "times"}, "w", r"no column 'w'; known are times, v"),
        ({"kind": "npz", "path": "drive.npz", "time": "t"}, "speed", r"no array 'speed'; did you mean 'speeds'"),
        ({"kind": "npz", "path": "drive.npz", "time": "t"}, "speeds.3", r"'speeds' has 1 columns"),
        ({"kind": "npz", "path": "drive.npz", "time": "t"}, "speeds.x", r"after the dot comes the number"),
        ({"kind": "npz", "path": "drive.npz", "time": "t"}, "short", r"'short' is \[2\], expected \[3\] as 't'"),
    ],
)
def test_what_a_table_does_not_have_is_named(folder: Path, feed: dict[str, Any], signal: str, says: str) -> None:
    (folder / "drive.csv").write_text("times,v\n0,1\n")
    np.savez(folder / "drive.npz", t=np.arange(3.0), speeds=np.ones(3), short=np.ones(2))
    with pytest.raises((ConfigError, DataError), match=says):
        read(folder, source(feeds=[feed], signals={SPEED: {"from": signal}}))


def test_a_made_drive_is_plausible_and_the_same_for_the_same_seed() -> None:
    one, same, other = (
        frames(list(open_made(MadeDriveSource(seed=seed, minutes=5), None).frames(refuse))) for seed in (1, 1, 2)
    )
    assert len(one) == 3000 and one[700] == same[700] and one[700].values[SPEED] != other[700].values[SPEED]
    seen = [path for path, quality in one[-1].quality.items() if quality is not Quality.NEVER]
    assert len(seen) >= 30 and {one[index].quality[path] for path in seen for index in range(50, 3000, 50)} == {
        Quality.OK
    }
    # The way by GNSS is the way by odometer, within its error of up to 1 %.
    way_m = sum(frame.values[SPEED] for frame in one) / 10
    gnss_m = sum(frame.values["Vehicle.CurrentLocation.Speed"] for frame in one[10:]) / 10
    assert way_m == pytest.approx(gnss_m, rel=0.03) and way_m > 500


@pytest.mark.realdata
@pytest.mark.skipif("ROADLOOP_DATA" not in os.environ, reason="ROADLOOP_DATA names no data")
def test_real_wheel_speeds_are_those_that_the_data_set_decoded() -> None:
    """Message 0xAA of a Toyota on bus 0; the data set's array has the front ones first, the left before the right."""
    data = Path(os.environ["ROADLOOP_DATA"])
    wheels = [f"Vehicle.Chassis.Axle.Row{row}.Wheel.{side}.Speed" for row in (1, 2) for side in ("Left", "Right")]
    table = source(
        rate_hz=100,
        feeds=[
            {
                "kind": "can-log",
                "path": "comma2k19/segment40.npz",
                "bus": 0,
                "dbc": [
                    "dbc/_toyota_2017.dbc",
                    "dbc/_toyota_adas_standard.dbc",
                    "dbc/toyota_new_mc_pt.dbc",
                ],
            }
        ],
        signals={
            path: {"from": f"WHEEL_SPEEDS.WHEEL_SPEED_{name}"}
            for path, name in zip(wheels, ("FL", "FR", "RL", "RR"), strict=True)
        },
    )
    replay = open_replay(table, data, None)
    found = frames(list(replay.frames(refuse)))
    with np.load(data / "comma2k19" / "segment40.npz", allow_pickle=False) as archive:
        t_s, expected = archive["CAN_wheel_speed_t"], archive["CAN_wheel_speed_value"]
    assert [tally.values for tally in replay.board.tallies] == [len(t_s)] * 4
    times = np.array([frame.t_s for frame in found[1:]])
    latest = np.searchsorted(t_s, times, side="right") - 1
    decoded = np.array([[frame.values[path] for path in wheels] for frame in found[1:]])
    assert np.abs(decoded - expected[latest]).max() < 1e-9
