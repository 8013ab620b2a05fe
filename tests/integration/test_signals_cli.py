"""Signals by the commands that people type: `validate --log`, and `infer` over a CAN log."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from roadloop_agent.cli import main
from roadloop_models.bundle import Bundle
from roadloop_models.packaged import packaged_bundles
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.repository import Repository, utc_now
from tests.unit.test_signals_sources import DBC, SPEED, YAW, write_log

PROFILE = f"""
hardware = "test"
[sources.motion]
kind = "signals"
[[sources.motion.feeds]]
kind = "can"
interface = "virtual"
channel = "cli"
dbc = ["car.dbc"]
[sources.motion.signals."{SPEED}"]
from = "SPEED.SPEED"
[sources.motion.signals."{YAW}"]
from = "KINEMATICS.YAW_RATE"
[slots.place]
task = "localization"
runtime = "onnx"
source = "motion"
rate_hz = 10.0
"""


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def van(tmp_path_factory: pytest.TempPathFactory) -> TestVehicle:
    folder = tmp_path_factory.mktemp("signals")
    bundle = Bundle.open(packaged_bundles()["localization"])
    broker = MosquittoBroker(folder / "broker")
    made = TestVehicle(folder / "van-1", "van-1", broker, Repository(utc_now()), {"place": bundle}, PROFILE)
    (folder / "van-1" / "car.dbc").write_text(DBC)
    return made


def validate(van: TestVehicle, log: Path, *more: str) -> Result:
    return call("validate", "--config", van.config, "--log", log, *more)


def test_validate_says_what_each_slot_would_get_of_a_log(van: TestVehicle, tmp_path: Path) -> None:
    log = write_log(tmp_path / "drive.log")
    told = validate(van, log, "--json")
    assert told.exit_code == 0, told.output
    (slot,) = json.loads(told.stdout)["slots"]
    found: dict[str, Any] = {signal["path"]: signal for signal in slot["signals"]}
    assert found[SPEED]["values"] == 40 and found[SPEED]["ok_share"] == 1.0
    assert found[YAW]["never_share"] == pytest.approx(0.05)
    shown = validate(van, log)
    assert shown.exit_code == 0 and "SPEED.SPEED" in shown.output and "10 .. 11.95 m/s" in shown.output


def test_validate_refuses_a_log_without_a_signal_that_is_mapped(van: TestVehicle, tmp_path: Path) -> None:
    log = tmp_path / "other.log"
    log.write_text("(1000.0) can0 024#0208000000000000\n(1001.0) can0 024#0208000000000000\n")
    told = validate(van, log)
    assert told.exit_code == 2
    assert f"slots.place: takes {SPEED} (SPEED.SPEED), which the log never has" in told.stderr


def test_infer_dead_reckons_over_a_can_log(tmp_path: Path) -> None:
    (tmp_path / "car.dbc").write_text(DBC)
    log = write_log(tmp_path / "drive.log")
    output = tmp_path / "out.jsonl"
    bundle = packaged_bundles()["localization"]
    told = call("infer", "--bundle", bundle, "--input", log, "--dbc", tmp_path / "car.dbc", "-o", output)
    assert told.exit_code == 0, told.output
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    # 1.95 s from 10 m/s, faster by 1 m/s each second; the network may take up to 0.5 m/s off.
    assert lines[-1]["along_m"] == pytest.approx(10 * 1.95 + 1.95**2 / 2, abs=0.5 * 1.95)
    assert lines[-1]["sigma_m"] > 0
    bare = call("infer", "--bundle", bundle, "--input", log, "-o", output)
    assert bare.exit_code == 2 and "a CAN log is decoded with --dbc FILE" in bare.stderr
    (tmp_path / "car.dbc").write_text(DBC.replace("SPEED", "TEMPO").replace("KINEMATICS", "OTHERS"))
    unknown = call("infer", "--bundle", bundle, "--input", log, "--dbc", tmp_path / "car.dbc", "-o", output)
    assert unknown.exit_code == 2 and "has none of the names that are known without a profile" in unknown.stderr
