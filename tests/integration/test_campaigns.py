"""Campaigns from end to end: what the back-test predicts is what real agents send, and what is pushed is what runs."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import select

from roadloop_agent.campaigns.shelf import Shelf
from roadloop_agent.drive.shadow.host import Installed, Shadow, spawner
from roadloop_cloud.app.processes import run_fleet
from roadloop_cloud.campaigns import levels
from roadloop_cloud.cli import main
from roadloop_cloud.fleet import intake
from roadloop_cloud.identity.provisioning import load_profile
from roadloop_cloud.store.ingest_tables import Capture
from roadloop_models.bundle import Bundle
from roadloop_models.campaigns.campaign import Campaign, read_campaign
from roadloop_models.contract.messages import Campaigns, CampaignsReport, ReleaseRef, Reported
from tests.fakes.agent import RunningAgent
from tests.fakes.bundles import tiny_bundle
from tests.fakes.live_cloud import LiveCloud, wait_until

VAN = "van-1"
SLOW_S = 120.0
"""A machine that does much else needs so long."""
PROFILE = """
hardware = "test"
[sources.camera]
kind = "made-signs"
count = 240
seed = 5
loop = {loop}
pace = "{pace}"
[slots.sign]
task = "traffic-sign"
runtime = "onnx"
source = "camera"
rate_hz = 100.0
"""
UNSURE = """
name = "unsure"
task = "traffic-sign"
when = "{when}"
rest_frames = 2
[keep]
before_frames = 1
after_frames = 1
[budget]
bytes_per_day = {bytes_per_day}
hits_per_day = 60
"""


def provision(cloud: LiveCloud, folder: Path, *, loop: bool, pace: str, more: str = "") -> RunningAgent:
    profile = folder / "drives.toml"
    profile.write_text(PROFILE.format(loop=str(loop).lower(), pace=pace))
    cloud.app.vehicles.add(VAN, load_profile(str(profile)), folder / VAN)
    agent = RunningAgent(folder / VAN)
    agent.config.write_text(agent.config.read_text() + more)
    return agent


def campaign_file(path: Path, when: str, bytes_per_day: int = 1 << 20) -> Path:
    path.write_text(UNSURE.format(when=when, bytes_per_day=bytes_per_day))
    return path


def captures(cloud: LiveCloud) -> list[Capture]:
    with cloud.app.database.reading() as session:
        return list(session.scalars(select(Capture).order_by(Capture.about_seq)))


def predicted(folder: Path, agent: RunningAgent, file: Path) -> dict[str, Any]:
    """What the commands of a person say."""
    log = folder / "drive.trace"
    subprocess.run(
        [sys.executable, "-m", "roadloop_agent.cli", "trace", "--config", str(agent.config), "-o", str(log)], check=True
    )
    done = CliRunner().invoke(main, ["campaign", "test", str(file), "--replay", str(log), "--json"])
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    return dict(found)


@contextmanager
def fleet(cloud: LiveCloud) -> Iterator[None]:
    """The fleet process, in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=run_fleet, args=(cloud.app, 1, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)


@pytest.mark.parametrize(
    ("when", "bytes_per_day"),
    [
        ("uncertainty > 0.3", 1 << 20),
        ("novelty > 0.6 or class_id in (1, 2, 3)", 1 << 20),
        ("uncertainty > 0.1", 30_000),
    ],
    ids=["uncertainty", "novelty", "budget"],
)
def test_a_real_agent_sends_what_the_back_test_predicts(tmp_path: Path, when: str, bytes_per_day: int) -> None:
    cloud = LiveCloud(tmp_path)
    agent = provision(cloud, tmp_path, loop=False, pace="as-consumed")
    file = campaign_file(tmp_path / "unsure.toml", when, bytes_per_day)
    expected = predicted(tmp_path, agent, file)
    assert expected["items"] >= 10
    Shelf(tmp_path / VAN / "state" / "campaigns.json").take(Campaigns(version=1, campaigns=(read_campaign(file),)))
    with cloud.broker(), cloud.ingest(), agent:
        wait_until("the items came", lambda: len(captures(cloud)) >= expected["items"], SLOW_S)
        wait_until("all is stored", lambda: cloud.app.telemetry.totals().stored >= 240, SLOW_S)
    found = captures(cloud)
    assert {capture.campaign for capture in found} == {"unsure"}
    assert len(found) == expected["items"]
    assert sum(capture.size_bytes for capture in found) == expected["size_bytes"]
    if "novelty" not in when:  # telemetry alone knows the hits, too
        done = CliRunner().invoke(
            main, ["campaign", "estimate", str(file), "--workspace", str(tmp_path / "fleet"), "--json"]
        )
        assert done.exit_code == 0, done.output
        (estimated,) = json.loads(done.stdout)
        assert estimated["moments"] == expected["moments"]
        if expected["refused"] == 0:
            assert estimated["hits"] == expected["hits"]
    saved = json.loads((tmp_path / VAN / "state" / "campaign-budgets.json").read_bytes())
    assert saved["hits:sign/unsure"] == expected["hits"]
    assert saved["bytes:sign/unsure"] == expected["size_bytes"]


def test_a_campaign_is_pushed_shown_and_stopped(tmp_path: Path) -> None:
    cloud = LiveCloud(tmp_path)
    agent = provision(cloud, tmp_path, loop=True, pace="rate")
    file = campaign_file(tmp_path / "unsure.toml", "uncertainty > 0.3")

    def ask(*words: str) -> Any:
        done = CliRunner().invoke(main, ["campaign", *words, "--workspace", str(tmp_path / "fleet"), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def on_van(key: str) -> Any:
        return ask("show", "unsure")["vehicles"][0][key]

    with cloud.broker(), cloud.ingest(), fleet(cloud), agent:
        wait_until("the vehicle has reported", lambda: bool(cloud.app.vehicles.get(VAN).reported))
        assert ask("push", str(file), "--vehicle", VAN)["vehicles"] == [VAN]
        assert ask("push", str(file), "--vehicle", VAN)["vehicles"] == []
        wait_until("it runs", lambda: on_van("runs"))
        wait_until("items come", lambda: on_van("items") > 3)
        assert ask("stop", "unsure")["vehicles"] == [VAN]
        wait_until("it has stopped", lambda: not Shelf(tmp_path / VAN / "state" / "campaigns.json").report.version < 2)
        assert not on_van("active") and on_van("items") > 3
    (only,) = ask("list")
    assert only["name"] == "unsure"


def test_another_campaign_under_a_name_that_was_given_is_refused(tmp_path: Path) -> None:
    cloud = LiveCloud(tmp_path)
    campaign = read_campaign(campaign_file(tmp_path / "unsure.toml", "uncertainty > 0.3"))
    assert isinstance(campaign, Campaign)
    done = CliRunner().invoke(
        main,
        ["campaign", "push", str(tmp_path / "unsure.toml"), "--all", "--workspace", str(cloud.directory / "fleet")],
    )
    assert done.exit_code == 2 and "no vehicle with a slot of task traffic-sign is chosen" in done.stderr


def test_a_shadow_says_about_which_frame_it_decided_otherwise(tmp_path: Path) -> None:
    heard: dict[int, bool] = {}
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    one, other = (tiny_bundle(tmp_path / name, name, seed=seed) for name, seed in (("one", 0), ("two", 5)))
    shadow = Shadow(
        slot="sign",
        candidate=installed(other, 2),
        incumbent=installed(one, 1),
        max_cpu_share=1.0,
        spawn=spawner("onnx-int8", ("CPUExecutionProvider",), Path("/nowhere")),
        clock=time.monotonic,
        told=heard.__setitem__,
    )
    shadow.start()
    try:
        numbers = iter(range(1, 1 << 30))

        def decided() -> bool:
            shadow.offer((image,), next(numbers))
            return len(heard) >= 3

        wait_until("it has decided", decided)
    finally:
        shadow.stop()
    assert all(heard.values()) and all(number > 0 for number in heard)


def test_a_restored_database_overtakes_what_a_vehicle_knows(tmp_path: Path) -> None:
    cloud = LiveCloud(tmp_path, VAN)
    report = Reported(
        boot=1,
        agent_version="0.1.0",
        hardware="test",
        desired_version=0,
        slots={},
        campaigns=CampaignsReport(version=9),
    )
    with cloud.app.database.transaction() as session:
        intake.record(session, {}, {VAN: report})
    with cloud.app.database.reading() as session:
        ((vehicle, told),) = levels.LEVELS.unpublished(session)
    assert (vehicle, told.version, told.campaigns) == (VAN, 10, ()), "what nobody knows of any more is ended"


def installed(bundle: Bundle, release: int) -> Installed:
    ref = ReleaseRef(
        task="traffic-sign", release=release, version=bundle.manifest.version, manifest_sha256=bundle.manifest_sha256
    )
    return Installed(ref, bundle.directory)
