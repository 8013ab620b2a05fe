"""SIGHUP, and a vehicle that is suspended: what goes on, what is refused, and that nothing is lost."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from roadloop_agent.children import STUCK_S
from roadloop_models.contract.messages import Desired, Policy
from tests.fakes.agent import SIGN_PROFILE, TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import Repository
from tests.fakes.small_cloud import SmallCloud

VAN = "van-1"
PAUSED = SIGN_PROFILE.replace("rate_hz = 50.0", "rate_hz = 0.0")


def vehicle(tmp_path: Path, broker: MosquittoBroker, repository: Repository, profile: str) -> TestVehicle:
    return TestVehicle(tmp_path / VAN, VAN, broker, repository, {"sign": tiny_bundle(tmp_path / "bundle")}, profile)


def write_profile(van: TestVehicle, profile: str) -> None:
    (van.directory / "profile.toml").write_text(profile, encoding="utf-8")


def reload(van: TestVehicle) -> None:
    assert van.process is not None
    van.process.send_signal(signal.SIGHUP)


def test_a_reload_takes_the_new_configuration_and_loses_nothing(
    tmp_path: Path, broker: MosquittoBroker, repository: Repository
) -> None:
    van = vehicle(tmp_path, broker, repository, SIGN_PROFILE)
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 100)
        drive, link = van.child("drive"), van.child("link")
        write_profile(van, SIGN_PROFILE.replace('hardware = "test"', 'hardware = "test, reloaded"'))
        reload(van)
        cloud.wait("boot 2 decides", lambda: (2, "sign-decision") in cloud.ledger(VAN).delivered, 60)
        cloud.wait("the new one is reported", lambda: cloud.reported[VAN].hardware == "test, reloaded")
        assert van.child("drive") != drive and van.child("link") != link
        van.stop()
        cloud.wait("everything is accounted for", lambda: cloud.ledger(VAN).holes() == {})
        assert cloud.ledger(VAN).lost == {}


def test_a_paused_slot_decides_nothing_until_it_is_given_a_rate(
    tmp_path: Path, broker: MosquittoBroker, repository: Repository
) -> None:
    van = vehicle(tmp_path, broker, repository, PAUSED)
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.wait("it runs its release", lambda: VAN in cloud.reported and bool(cloud.reported[VAN].slots))
        cloud.wait("it tells how it does", lambda: cloud.ledger(VAN).stored("health") >= 3)
        assert cloud.ledger(VAN).stored("sign-decision") == 0
        assert cloud.reported[VAN].slots["sign"].running == van.refs["sign"]
        write_profile(van, SIGN_PROFILE)
        reload(van)
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 50, 60)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (SIGN_PROFILE.replace("rate_hz", "rat_hz"), "rat_hz"),
        (SIGN_PROFILE + SIGN_PROFILE[SIGN_PROFILE.index("[slots") :].replace("slots.sign", "slots.other"), "'other'"),
    ],
    ids=["unknown-key", "slot-without-release"],
)
def test_a_bad_configuration_is_refused_and_the_old_one_goes_on(
    tmp_path: Path, broker: MosquittoBroker, repository: Repository, bad: str, said: str
) -> None:
    van = vehicle(tmp_path, broker, repository, SIGN_PROFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        os.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        try:
            van.start()
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert systemd.recv(200).startswith(b"READY=1")
        children = van.child("drive"), van.child("link")
        write_profile(van, bad)
        before_us = time.monotonic_ns() // 1000
        reload(van)
        reloading = dict(line.split("=") for line in systemd.recv(200).decode().splitlines())
        assert reloading["RELOADING"] == "1"
        assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert systemd.recv(200).startswith(b"READY=1\nSTATUS=the last reload was refused")
        assert said in van.log() and "the configuration is refused" in van.log()
        assert (van.child("drive"), van.child("link")) == children
        write_profile(van, SIGN_PROFILE)
        reload(van)
        assert systemd.recv(200).startswith(b"RELOADING=1")
        assert systemd.recv(200) == b"READY=1\nSTATUS=drive and link are running"
        assert van.child("drive") not in children
        assert van.stop() == 0


def test_another_state_folder_takes_a_restart(tmp_path: Path, broker: MosquittoBroker, repository: Repository) -> None:
    van = vehicle(tmp_path, broker, repository, SIGN_PROFILE)
    with van:
        drive = van.child("drive")
        text = van.config.read_text(encoding="utf-8")
        van.config.write_text(text.replace("[vehicle]", '[vehicle]\nstate_dir = "elsewhere"'), encoding="utf-8")
        reload(van)
        van.wait("it is refused", lambda: "that takes a restart, not a reload" in van.log())
        assert van.child("drive") == drive


@pytest.mark.slow
def test_a_suspended_vehicle_goes_on_with_the_same_processes_and_connects_anew(
    tmp_path: Path, broker: MosquittoBroker, repository: Repository
) -> None:
    van = vehicle(tmp_path, broker, repository, SIGN_PROFILE)
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 50)
        ref = repository.add(tiny_bundle(tmp_path / "next", "tiny-2"), 2)
        cloud.desire(VAN, Desired(version=1, slots={"sign": ref}, policy=Policy(health_window_s=15.0)))
        cloud.wait("release 2 is tried", lambda: cloud.reported[VAN].slots["sign"].state == "trial", 60)
        assert van.process is not None
        pids = [van.process.pid, van.child("drive"), van.child("link")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(STUCK_S + 2.0)  # the time itself is what is tested: longer than anything that stands still may
        before = cloud.ledger(VAN).stored("sign-decision")
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        cloud.wait("decisions come again", lambda: cloud.ledger(VAN).stored("sign-decision") > before + 20)
        assert [van.process.pid, van.child("drive"), van.child("link")] == pids
        assert "makes no progress" not in van.log() and "suspended?" in van.log()
        assert cloud.reported[VAN].slots["sign"].state == "trial"  # its window has not run out meanwhile
        cloud.wait("release 2 is kept", lambda: cloud.reported[VAN].slots["sign"].state == "idle", 60)
        assert cloud.reported[VAN].slots["sign"].running == ref
        van.stop()
        cloud.wait("everything is accounted for", lambda: cloud.ledger(VAN).holes() == {})
        assert cloud.ledger(VAN).lost == {}
