"""What a fleet survives, told by digital twins against the real service: broker, ingest and fleet process."""

import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from roadloop_cloud.broker import find_mosquitto
from roadloop_cloud.rollout.service import RolloutView, Settings, Target
from roadloop_cloud.store.database import now_utc
from roadloop_models.errors import ConfigError
from tests.fakes import live_cloud
from tests.fakes.twin_cloud import (
    TASK,
    TwinCloud,
    Twins,
    elapsed_s,
    memory_folder,
    missing_samples,
    produced_samples,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
BUSY = """
[rates]
health_every_s = 0.5
batch_age_s = 2.0
"""
LONG_S = 300.0
LOOK_S = 0.2
"""Looking at all vehicles is work too: seldom enough to leave the processor to the fleet."""
wait_until = partial(live_cloud.wait_until, look_s=LOOK_S)
FAST = Settings(waves=("20%", "100%"), soak_s=1.0, timeout_s=300.0, health_window_s=2.0, min_executed=5)
EVERYBODY = Target(everyone=True)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[TwinCloud]:
    try:
        find_mosquitto()
    except ConfigError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="twins-", dir=memory_folder(tmp_path)) as folder:
        yield TwinCloud(tmp_path, Path(folder))


def all_run(cloud: TwinCloud, version: str, count: int) -> Callable[[], bool]:
    return lambda: cloud.running() == Counter({version: count})


def report_in(cloud: TwinCloud, count: int) -> None:
    wait_until("all twins report", all_run(cloud, "tiny-1", count), LONG_S)


def roll_out(cloud: TwinCloud, release: int) -> RolloutView:
    return cloud.ended(cloud.app.rollouts.create(TASK, release, EVERYBODY, FAST), LONG_S, look_s=LOOK_S)


def finish(cloud: TwinCloud, twins: Twins) -> None:
    """Every sample that a twin has numbered is stored: none was declared lost, none is missing."""
    account = twins.finish()
    assert account["status"]["pending"] == 0
    assert account["status"]["lost"] == 0
    assert produced_samples(account) > 0
    assert missing_samples(cloud, account) == 0


def test_a_release_that_is_bad_on_one_hardware_stops_within_its_wave(cloud: TwinCloud) -> None:
    cloud.add_twins("good", 350, "board-a")
    cloud.add_twins("bad", 150, "board-b")
    release = cloud.release("tiny-2", seed=2)
    scenario = BUSY + f'[[bad]]\ntask = "{TASK}"\nversion = "tiny-2"\nhardware = "board-b"\neffect = "errors"\n'
    with cloud.service(), Twins(cloud, scenario) as twins:
        report_in(cloud, 500)
        begin_s = time.monotonic()
        # On a busy machine 500 twins have not all decided something within the two seconds that do for fewer.
        rollout = cloud.app.rollouts.create(TASK, release, EVERYBODY, replace(FAST, health_window_s=10.0))

        def bad() -> list[str]:
            return [m.vehicle for m in cloud.app.rollouts.show(rollout).members if m.taken_back]

        wait_until("the cohort is taken back", lambda: len(bad()) > 0, LONG_S)
        decided_s = elapsed_s(begin_s)

        def back() -> bool:
            return all(version == "tiny-1" for name, version in cloud.reported().items() if name.startswith("bad"))

        wait_until("the cohort runs the old version", back, LONG_S)
        back_s = elapsed_s(begin_s)
        view = cloud.ended(rollout, LONG_S, look_s=LOOK_S)
        finish(cloud, twins)
    offered = [m for m in view.members if m.vehicle.startswith("bad") and m.offered_at_s is not None]
    print(
        f"\n500 twins, 150 of them with a release that fails: {len(offered)} were offered it; "
        f"stopped after {decided_s:.1f} s, all back after {back_s:.1f} s"
    )
    assert (view.state, view.reason.startswith("taken back from board-b")) == ("succeeded", True), view.reason
    assert {m.wave for m in offered} == {0}, "no wave after the first was offered it there"
    assert cloud.running() == {"tiny-2": 350, "tiny-1": 150}
    assert not [m.vehicle for m in view.members if m.vehicle.startswith("good") and m.taken_back]


def test_rough_links_and_power_cuts_lose_nothing_and_leave_nobody_behind(cloud: TwinCloud) -> None:
    cloud.add_twins("van", 60, "board-a")
    release = cloud.release("tiny-2", seed=2)
    scenario = (
        "seed = 7\n"
        + BUSY
        + '[[links]]\nvehicles = "van-*[02468]"\ndrop_every_s = 8.0\ndrop_for_s = 2.0\n'
        + 'stall_every_s = 10.0\nstall_for_s = 2.0\n[[links]]\nvehicles = "*"\nreorder_s = 0.3\n'
        + '[[power]]\nvehicles = "van-*[369]"\ncut_every_s = 12.0\noff_for_s = 1.0\n'
    )
    with cloud.service(), Twins(cloud, scenario, drain_s=LONG_S) as twins:
        report_in(cloud, 60)
        settings = replace(FAST, success_threshold=0.5, error_threshold=0.5)
        cloud.app.rollouts.create(TASK, release, EVERYBODY, settings)
        wait_until("all run it", all_run(cloud, "tiny-2", 60), 2 * LONG_S)
        account = twins.finish()
    connections = sum(twin["connections"] for twin in account["twins"])
    starts = sum(twin["starts"] for twin in account["twins"])
    assert starts > 60, "some had their power cut"
    assert connections > 60, "some were cut off"
    assert account["status"]["lost"] == 0
    assert missing_samples(cloud, account) == 0


def test_a_broker_that_is_killed_with_stale_persistence_loses_nothing(cloud: TwinCloud) -> None:
    cloud.add_twins("van", 200, "board-a")
    release = cloud.release("tiny-2", seed=2)
    with cloud.service(), Twins(cloud, BUSY) as twins:
        report_in(cloud, 200)
        database = cloud.app.workspace.broker / "mosquitto.db"
        wait_until("the broker has written a snapshot", database.exists)
        stale = shutil.copy(database, cloud.directory / "stale.db")
        rollout = cloud.app.rollouts.create(TASK, release, EVERYBODY, FAST)
        wait_until("some run it", lambda: cloud.running()["tiny-2"] >= 10, LONG_S)
        cloud.kill("broker")
        shutil.copy(stale, database)
        begin_s, began = time.monotonic(), now_utc()
        cloud.start("broker")
        wait_until("all are back", lambda: cloud.heard_since(began) == 200, LONG_S)
        print(f"\nthe broker was killed and has an old snapshot: all 200 are back after {elapsed_s(begin_s):.1f} s")
        assert cloud.ended(rollout, LONG_S, look_s=LOOK_S).state == "succeeded"
        assert cloud.running() == {"tiny-2": 200}
        finish(cloud, twins)


def test_all_vehicles_come_back_at_one_instant(cloud: TwinCloud) -> None:
    cloud.add_twins("van", 500, "board-a")
    release = cloud.release("tiny-2", seed=2)
    with cloud.service(), Twins(cloud, BUSY) as twins:
        report_in(cloud, 500)
        cloud.kill("broker")
        wait_until("the fleet process has noticed", lambda: not cloud.broker_listens())
        for file in cloud.app.workspace.broker.glob("*.db"):
            file.unlink()  # it remembers nobody either
        begin_s, began = time.monotonic(), now_utc()
        cloud.start("broker")
        wait_until("all are back", lambda: cloud.heard_since(began) == 500, LONG_S)
        back_s = elapsed_s(begin_s)
        view = roll_out(cloud, release)
        print(f"\n500 vehicles at once: all are back after {back_s:.1f} s, a release after {elapsed_s(begin_s):.1f} s")
        assert view.state == "succeeded"
        assert cloud.online() == 500
        finish(cloud, twins)


def test_a_database_restored_from_before_gets_everything_again(cloud: TwinCloud) -> None:
    cloud.add_twins("van", 60, "board-a")
    second = cloud.release("tiny-2", seed=2)
    with cloud.service(), Twins(cloud, BUSY) as twins:
        report_in(cloud, 60)
        backup = cloud.directory / "backup.sqlite"
        _copy(cloud.app.workspace.root / "state.sqlite", backup)
        assert roll_out(cloud, second).state == "succeeded"
        before = cloud.accounted()
        cloud.end("ingest", "fleet")
        cloud.app.database.close()
        for file in cloud.app.workspace.root.glob("state.sqlite*"):
            file.unlink()
        shutil.copy(backup, cloud.app.workspace.root / "state.sqlite")
        cloud.app.telemetry.begin_new_epoch()
        assert sum(cloud.accounted().values()) < sum(before.values())
        cloud.start("ingest", "fleet")
        # The database knows nothing of the rollout, and what it says counts: its next version is above all they saw.
        wait_until("all run what the database says", all_run(cloud, "tiny-1", 60), LONG_S)
        wait_until(
            "what was stored before is stored again",
            lambda: all(cloud.accounted().get(key, 0) >= stored for key, stored in before.items()),
            LONG_S,
        )
        assert roll_out(cloud, second).state == "succeeded"
        finish(cloud, twins)


def test_a_cloud_that_is_killed_in_every_state_of_a_rollout_goes_on(cloud: TwinCloud) -> None:
    cloud.add_twins("van", 40, "board-a")
    second, third = cloud.release("tiny-2", seed=2), cloud.release("tiny-3", seed=3)
    with cloud.service(), Twins(cloud, BUSY) as twins:
        report_in(cloud, 40)
        rollout = cloud.app.rollouts.create(TASK, second, EVERYBODY, FAST)
        seen = _kill_in_every_state(cloud, rollout)
        assert {("running", "offered"), ("running", "soak"), ("running", "next")} <= seen
        assert cloud.app.rollouts.show(rollout).state == "succeeded"
        assert cloud.running() == {"tiny-2": 40}

        rollout = cloud.app.rollouts.create(TASK, third, EVERYBODY, FAST)
        wait_until("some run it", lambda: cloud.running()["tiny-3"] >= 4, LONG_S)
        cloud.app.rollouts.pause(rollout)
        _restart(cloud)
        assert cloud.app.rollouts.show(rollout).state == "paused"
        cloud.app.rollouts.abort(rollout, take_back_all=True)
        _restart(cloud)
        wait_until("all are back", all_run(cloud, "tiny-2", 40), LONG_S)
        assert cloud.app.rollouts.show(rollout).state == "aborted"
        finish(cloud, twins)


def _restart(cloud: TwinCloud) -> None:
    cloud.kill("fleet", "ingest")
    cloud.start("fleet", "ingest")


def _kill_in_every_state(cloud: TwinCloud, rollout: int) -> set[tuple[str, str]]:
    """Kill fleet process and ingest whenever the rollout is somewhere new, until it ends; where it was."""
    seen: set[tuple[str, str]] = set()
    until_s = time.monotonic() + LONG_S
    while (view := cloud.app.rollouts.show(rollout)).state == "running" and time.monotonic() < until_s:
        states = {m.state for m in view.members}
        gate = "soak" if any(gate.name == "soak" for gate in view.gates) else "offered"
        where = (view.state, "next" if view.wave > 0 and "offered" in states else gate)
        if where not in seen and "offered" in states | ({"offered"} if gate == "soak" else set()):
            seen.add(where)
            _restart(cloud)
        time.sleep(0.05)
    return seen


def _copy(source: Path, target: Path) -> None:
    """A consistent copy of a database in use."""
    with sqlite3.connect(source) as database, sqlite3.connect(target) as copy:
        database.backup(copy)
