"""drive-state on board and over files: frames in, telemetry rows and decisions out; what is unknown stays unknown."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roadloop_agent.config import SlotTable
from roadloop_agent.drive.frames import Frame
from roadloop_agent.drive.handlers import Outcome
from roadloop_agent.drive.handlers.drive_state import DriveStateHandler
from roadloop_agent.drive.pipeline import Model
from roadloop_agent.infer import InferOptions
from roadloop_agent.infer.drive_state import open_lines
from roadloop_models.contract.streams import DRIVE_STATE
from roadloop_models.drive_state.signals import NAMES, SIGNALS, SPEED
from roadloop_models.drive_state.window import ROWS
from roadloop_models.errors import ConfigError, DataError
from roadloop_models.signals import Quality, SignalFrame
from roadloop_models.tasks.made_obd import made_obd_drives
from roadloop_models.tasks.obd_data import FILES, ObdDrive, write_drives
from tests.fakes.drive_state_model import FakeDriveRunner, fake_drive_model

OBD_SPEED = SIGNALS[SPEED].path


class Quiet:
    """A slot that drops nothing."""

    frames, dropped = 1, 3

    def may_capture(self) -> bool:
        return False


def handler(**settings: Any) -> DriveStateHandler:
    table = SlotTable(task="drive-state", runtime="onnx", source="obd", rate_hz=2.0, settings=settings)
    return DriveStateHandler(table)


def drive(
    board: DriveStateHandler, model: Model | None, count: int, first: int = 0, stale: str | None = None
) -> list[Outcome]:
    """Half-second frames of a made car; `stale` is a path whose value is not known to be good."""
    outcomes = []
    for number, row in enumerate(made_obd_drives(1)[0].values[first : first + count], first):
        values = {signal.path: float(value) for signal, value in zip(SIGNALS, row, strict=True)}
        quality = dict.fromkeys(values, Quality.OK)
        if stale is not None:
            values[stale], quality[stale] = math.nan, Quality.STALE
        frame = SignalFrame(1000.0 + number / 2, values, quality)
        outcomes.append(board.handle(Frame(number, number / 2, number * 500, frame, frame.t_s), model, Quiet()))
    return outcomes


def named(outcome: Outcome) -> dict[str, float]:
    ((stream, row),) = outcome.rows
    assert stream is DRIVE_STATE
    return dict(zip([field.name for field in stream.fields], row, strict=True))


def test_a_decision_a_second_from_the_first_minute_on() -> None:
    outcomes = drive(handler(), fake_drive_model(FakeDriveRunner(change=0.1)), ROWS + 4)
    assert [number for number, outcome in enumerate(outcomes) if outcome.decided] == [ROWS - 1, ROWS + 1, ROWS + 3]
    row = named(outcomes[-1])
    assert row["speed_10s_kmh"] == pytest.approx(row["speed_kmh"] + 3.6 * 1.4, abs=1e-3)
    assert (row["state"], row["release"], row["dropped"], row["known_signals"]) == (1, 0, 3, len(SIGNALS))
    assert outcomes[-1].confidence == row["confidence"] == pytest.approx(math.e / (math.e + 2))
    assert outcomes[-1].latency_us > 0


def test_the_decision_names_what_is_odd() -> None:
    outcome = drive(handler(odd_above=0.5), fake_drive_model(FakeDriveRunner(expected=4.0)), ROWS)[-1]
    assert outcome.decision is not None
    line, row = outcome.decision(), named(outcome)
    assert line["state"] == "normal"
    assert line["anomaly_signal"] == NAMES[int(row["anomaly_signal"])] == next(iter(line["odd"]))
    assert len(line["odd"]) == row["odd_signals"] > 0
    assert min(line["odd"].values()) > 0.5


def test_a_stale_speed_is_told_to_the_model_and_gives_no_forecast() -> None:
    runner = FakeDriveRunner()
    outcome = drive(handler(), fake_drive_model(runner), ROWS, stale=OBD_SPEED)[-1]
    row = named(outcome)
    assert math.isnan(row["speed_kmh"]) and math.isnan(row["speed_10s_kmh"])
    assert outcome.decision is not None
    assert outcome.decision()["speed_10s_kmh"] is None
    by_feature = runner.shown[-1].reshape(-1, 8, len(SIGNALS))
    assert (by_feature[:, :, SPEED] == 0).all(), "mean, share of known rows and differences"
    assert (by_feature[:, 1, SPEED + 1] == 1).all()


def test_the_window_outlives_a_change_of_the_model_and_its_absence() -> None:
    board = handler()
    assert not any(outcome.decided for outcome in drive(board, None, ROWS))
    assert any(outcome.decided for outcome in drive(board, fake_drive_model(FakeDriveRunner()), 2, first=ROWS))


def test_settings_are_strict() -> None:
    with pytest.raises(ConfigError, match="odd_abov"):
        handler(odd_abov=1.0)


def lines(path: Path, **options: Any) -> list[dict[str, Any]]:
    return list(open_lines(fake_drive_model(FakeDriveRunner()), path, InferOptions(settings={}, **options)).lines)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    write_drives(directory, [ObdDrive(d.name, d.record, d.values[:200]) for d in made_obd_drives(2)[:3]])
    return directory / FILES["kit"]


def test_each_drive_of_a_file_begins_with_an_empty_window(made: Path) -> None:
    found = lines(made)
    assert {line["drive"] for line in found} == {"made_00_Frei", "made_01_Normal", "made_02_Stau"}
    for name in ("made_00_Frei", "made_02_Stau"):
        assert [line["t"] for line in found if line["drive"] == name] == [59.5 + second for second in range(41)]
    assert lines(made, drive="made_01_Normal") == [line for line in found if line["drive"] == "made_01_Normal"]


def test_a_drive_that_is_not_there_is_named_with_those_that_are(made: Path) -> None:
    with pytest.raises(DataError, match="no drive 'other'; it has made_00_Frei"):
        lines(made, drive="other")


def test_a_csv_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "obd.csv"
    speeds = np.linspace(36.0, 72.0, ROWS)
    body = "".join(f"{index / 2},{speed},{'' if index % 2 else 90}\n" for index, speed in enumerate(speeds))
    path.write_text("t_s,speed_kmh,Vehicle.OBD.MAP\n" + body)
    (line,) = lines(path)
    assert (line["t"], line["row"], line["speed_kmh"]) == (59.5, ROWS - 1, 72.0)
    path.write_text("time,noise\n1,2\n")
    with pytest.raises(DataError, match="no OBD signal is known"):
        lines(path)
