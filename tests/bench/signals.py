"""How fast CAN frames become signals: a recorded bus read faster than real time, and python-can's own bus."""

import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from roadloop_agent.drive.frames import refuse
from roadloop_agent.drive.sources.signals.board import Board, Limits
from roadloop_agent.drive.sources.signals.can_live import CanConnection, open_bus
from roadloop_agent.drive.sources.signals.can_log import read_can_log
from roadloop_agent.drive.sources.signals.dbc import Decoder, find_signal, load_dbc, message_key
from roadloop_agent.drive.sources.signals.mapping import MappedSignal
from roadloop_agent.drive.sources.signals.opening import open_replay
from roadloop_agent.signals_config import CanFeed, SignalsSource
from tests.bench.figures import Figure, Result, Skipped

LOG = "comma2k19/segment40.npz"
DBC = ("dbc/_toyota_2017.dbc", "dbc/_toyota_adas_standard.dbc", "dbc/toyota_new_mc_pt.dbc")
BUS = 0
ROUNDS = 5
SIGNALS = {
    "Vehicle.Speed": "SPEED.SPEED",
    "Vehicle.Chassis.Axle.Row1.Wheel.Left.Speed": "WHEEL_SPEEDS.WHEEL_SPEED_FL",
    "Vehicle.Chassis.Axle.Row1.Wheel.Right.Speed": "WHEEL_SPEEDS.WHEEL_SPEED_FR",
    "Vehicle.Chassis.Axle.Row2.Wheel.Left.Speed": "WHEEL_SPEEDS.WHEEL_SPEED_RL",
    "Vehicle.Chassis.Axle.Row2.Wheel.Right.Speed": "WHEEL_SPEEDS.WHEEL_SPEED_RR",
    "Vehicle.AngularVelocity.Yaw": "KINEMATICS.YAW_RATE",
    "Vehicle.Acceleration.Longitudinal": "KINEMATICS.ACCEL_X",
    "Vehicle.Acceleration.Lateral": "KINEMATICS.ACCEL_Y",
    "Vehicle.Chassis.SteeringWheel.Angle": "STEER_ANGLE_SENSOR.STEER_ANGLE",
}
_figure = partial(Figure, command="scripts/bench vehicle")


def figures(data: Path | None) -> list[Result]:
    """Only frames that have used signals count; the others of the bus are read past in the same time."""
    if data is None:
        return [
            Skipped(name, "ROADLOOP_DATA names no data") for name in ("can_frames_per_s", "can_frames_per_s_python_can")
        ]
    return [
        _figure(
            "can_frames_per_s", max(_replayed(data) for _ in range(ROUNDS)), "/s", bar=20_000.0, direction="at least"
        ),
        _figure("can_frames_per_s_python_can", max(_received(data) for _ in range(ROUNDS)), "/s"),
    ]


def _replayed(data: Path) -> float:
    """Log -> decoder -> board -> SignalFrames at 10 Hz, in one thread; opening the log and parsing the DBC included."""
    replay = open_replay(_source({"kind": "can-log", "path": LOG, "bus": BUS, "dbc": DBC}), data, None)
    started_s = time.perf_counter()
    for _ in replay.frames(refuse):
        pass
    seconds = time.perf_counter() - started_s
    decoder = _decoder(data)
    frames = [key for _, key, _ in read_can_log(data / LOG, BUS, refuse) if key in decoder.keys]
    _check_none_lost(sum(tally.values for tally in replay.board.tallies), frames, decoder)
    return len(frames) / seconds


def _received(data: Path) -> float:
    """python-can's virtual bus -> decoder -> board: what one thread takes from a live bus."""
    from can import Bus, Message

    feed = CanFeed(interface="virtual", channel="bench", dbc=DBC)
    connection = CanConnection(feed, _decoder(data).used, open_bus)
    board = Board([Limits.of_catalogue(path) for path in sorted(SIGNALS)])
    keys = set(connection.decoder.keys)
    frames = [(key, payload) for _, key, payload in read_can_log(data / LOG, BUS, refuse) if key in keys]
    with Bus(channel="bench", interface="virtual") as other:
        for key, payload in frames:
            other.send(Message(arbitration_id=key, data=payload.ljust(8, b"\0"), is_extended_id=False))
    started_s = time.perf_counter()
    for _ in frames:
        board.put(time.monotonic(), connection.read(1.0))
    seconds = time.perf_counter() - started_s
    connection.close()
    _check_none_lost(sum(tally.values for tally in board.tallies), [key for key, _ in frames], connection.decoder)
    return len(frames) / seconds


def _source(feed: dict[str, Any]) -> SignalsSource:
    signals = {path: {"from": name} for path, name in SIGNALS.items()}
    return msgspec.convert({"kind": "signals", "feeds": [feed], "signals": signals}, SignalsSource)


def _decoder(data: Path) -> Decoder:
    database = load_dbc([data / path for path in DBC])
    return Decoder(
        [find_signal(database, MappedSignal(i, path, SIGNALS[path])) for i, path in enumerate(sorted(SIGNALS))]
    )


def _check_none_lost(values: int, keys: list[int], decoder: Decoder) -> None:
    """Every frame must have given a value of each used signal that it has."""
    in_message = Counter(message_key(used.message) for used in decoder.used)
    expected = sum(in_message[key] * frames for key, frames in Counter(keys).items())
    if values != expected:
        raise AssertionError(f"{values} values came of {expected}: frames were lost")
