"""The real agent, its supervisor, drive and link, against a real mosquitto with mutual TLS."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from roadloop_models.contract.messages import Desired, Policy
from roadloop_models.errors import HealthError
from tests.fakes.agent import SIGN_PROFILE, TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import Repository
from tests.fakes.small_cloud import SmallCloud, blob_content
from tests.fakes.speed_bundle import speed_bundle

VAN = "van-1"


@pytest.fixture
def van(tmp_path: Path, broker: MosquittoBroker, repository: Repository) -> Iterator[TestVehicle]:
    bundle = tiny_bundle(tmp_path / "bundle")
    van = TestVehicle(tmp_path / VAN, VAN, broker, repository, {"sign": bundle})
    with van:
        yield van


def decided(van: TestVehicle) -> int:
    """Samples in the spool that wait, as status says."""
    state = van.status()
    return int(state["spool"]["pending_samples"]) if state else 0


def test_a_vehicle_without_a_network_drives_and_sends_everything_later(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository
) -> None:
    van.wait("decisions wait in the spool", lambda: decided(van) >= 150)
    assert not van.status()["connection"]["connected"]
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("the backlog has come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 150)
        van.wait("the spool is trimmed", lambda: van.status()["spool"]["pending_samples"] < 100)
        with cloud.lock:
            ledger = cloud.ledger(VAN)
            assert ledger.holes() == {} and ledger.lost == {}
            assert max(max(times.values()) for times in ledger.delivered.values()) == 1
            assert cloud.statuses[VAN][-1].online
        assert van.stop() == 0
        cloud.wait("it says goodbye", lambda: not cloud.statuses[VAN][-1].online)
        cloud.wait("everything has come", lambda: cloud.ledger(VAN).holes() == {})


def test_a_killed_link_costs_at_most_a_declared_gap_and_drive_goes_on(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository
) -> None:
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 50)
        drive = van.child("drive")
        for _ in range(3):
            target = cloud.ledger(VAN).stored("sign-decision") + 100
            van.kill("link")
            cloud.wait("decisions come again", partial(_has, cloud, target))
        assert van.child("drive") == drive
        van.stop()
        cloud.wait("everything is accounted for", lambda: cloud.ledger(VAN).holes() == {})
        assert {boot for boot, _ in cloud.ledger(VAN).delivered} == {1}
        assert cloud.ledger(VAN).lost_reasons() <= {"link-restart"}


def _has(cloud: SmallCloud, decisions: int) -> bool:
    return cloud.ledger(VAN).stored("sign-decision") >= decisions


def test_a_killed_drive_comes_back_under_a_new_boot(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository
) -> None:
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 50)
        link = van.child("link")
        van.kill("drive")
        cloud.wait("boot 2 decides", lambda: (2, "sign-decision") in cloud.ledger(VAN).delivered)
        assert van.child("link") == link
        cloud.wait("it is reported", lambda: cloud.reported[VAN].boot == 2)
        van.stop()
        cloud.wait("everything is accounted for", lambda: cloud.ledger(VAN).holes() == {})
        assert cloud.ledger(VAN).lost == {}


def test_a_killed_agent_leaves_no_process_and_loses_nothing_that_was_sealed(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository
) -> None:
    van.wait("samples wait in the spool", lambda: decided(van) >= 100)
    sealed = decided(van)
    drive, link = van.child("drive"), van.child("link")
    van.stop(signal.SIGKILL)
    van.wait("its children are gone", lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in (drive, link)))
    van.start()
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("the second boot decides", lambda: (2, "sign-decision") in cloud.ledger(VAN).delivered)

        def of_the_first_boot() -> int:
            return sum(len(numbers) for key, numbers in cloud.ledger(VAN).delivered.items() if key[0] == 1)

        cloud.wait("the first boot's samples come", lambda: of_the_first_boot() >= sealed)
        cloud.wait("nothing is missing", lambda: cloud.ledger(VAN).holes() == {})


def test_a_broker_that_lost_everything_costs_nothing(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository
) -> None:
    broker.start()
    with SmallCloud(broker, repository) as cloud:
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 50)
        cloud.committing = False
        time.sleep(1.0)  # what comes now is taken and never committed
        broker.stop(signal.SIGKILL)
        broker.forget()
        with cloud.lock:
            cloud.ledgers.clear()  # the cloud forgot it as well: it was never committed
            cloud.epoch += 1
        cloud.committing = True
        broker.start()
        cloud.wait("it goes on", lambda: cloud.ledger(VAN).stored("sign-decision") >= 50)
        van.stop()
        cloud.wait("everything is there from the first number on", lambda: not _missing(cloud))


def _missing(cloud: SmallCloud) -> bool:
    ledger = cloud.ledger(VAN)
    return bool(ledger.holes()) or ledger.lost != {} or (1, "sign-decision") not in ledger.delivered


def test_a_cloud_restored_from_nothing_gets_what_is_still_held(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository
) -> None:
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 100)
        cloud.restore_from_nothing(VAN)
        van.stop()
        cloud.wait("all of it comes again", lambda: not _missing(cloud))
        assert cloud.ledger(VAN).stored("sign-decision") >= 100


def test_another_vehicles_certificate_reaches_nothing_and_stops_nothing(
    van: TestVehicle, broker: MosquittoBroker, tmp_path: Path, repository: Repository
) -> None:
    van.stop()
    certificate, key = MosquittoBroker(tmp_path / "other").identity(VAN)
    (van.directory / "identity" / f"{VAN}.crt").write_bytes(certificate.read_bytes())
    (van.directory / "identity" / f"{VAN}.key").write_bytes(key.read_bytes())
    with broker, SmallCloud(broker, repository) as cloud:
        van.start()
        van.wait("it says why", lambda: bool(van.status() and van.status()["connection"]["last_error"]))
        van.wait("it drives on", lambda: decided(van) >= 50)
        assert VAN not in cloud.statuses


def test_malformed_messages_of_the_cloud_change_nothing(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository
) -> None:
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("decisions come", lambda: cloud.ledger(VAN).stored("sign-decision") >= 50)
        for tail in ("desired", "cursor", "cmd", f"file/{'0' * 64}/0"):
            for payload in (b"", b"{", b"\xff" * 100, b'{"version": 0, "slots": {}}'):
                cloud.publish_raw(f"roadloop/v1/{VAN}/down/{tail}", payload)
        before = cloud.ledger(VAN).stored("sign-decision")
        cloud.wait("decisions still come", lambda: cloud.ledger(VAN).stored("sign-decision") >= before + 100)
        van.wait("the error is shown", lambda: "channel" in van.status().get("message_error", ""))
        assert len(cloud.statuses[VAN]) == 1


def test_an_update_is_fetched_tried_and_kept(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository, tmp_path: Path
) -> None:
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("it reports", lambda: VAN in cloud.reported)
        ref = repository.add(tiny_bundle(tmp_path / "next", "tiny-2"), 2)
        cloud.desire(VAN, Desired(version=1, slots={"sign": ref}, policy=Policy(health_window_s=2.0)))

        def arrived() -> bool:
            slot = cloud.reported[VAN].slots["sign"]
            return slot.running == ref and slot.state == "idle"

        cloud.wait("release 2 runs", arrived, 60)
        assert cloud.reported[VAN].desired_version == 1
        cloud.wait(
            "its decisions say so",
            lambda: any(row[5] == 2 for row in cloud.ledger(VAN).rows[1, "sign-decision"].values()),
        )
        van.stop()
        cloud.wait("everything is accounted for", lambda: cloud.ledger(VAN).holes() == {})
        assert cloud.ledger(VAN).lost == {}


def test_an_update_that_dies_in_its_download_goes_on_after_a_restart(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository, tmp_path: Path
) -> None:
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("it reports", lambda: VAN in cloud.reported)
        ref = repository.add(tiny_bundle(tmp_path / "next", "tiny-2", seed=5), 2)
        cloud.serve_limit = 2
        cloud.desire(VAN, Desired(version=1, slots={"sign": ref}, policy=Policy(health_window_s=2.0)))
        cloud.wait("it is in the middle of it", lambda: cloud.serve_limit == 0)
        van.stop(signal.SIGKILL)
        cloud.wait("the broker says that it is gone", lambda: not cloud.statuses[VAN][-1].online)
        cloud.serve_limit = None
        van.start()
        cloud.wait("release 2 runs", lambda: cloud.reported[VAN].slots["sign"].running == ref, 60)


def test_a_version_that_fails_is_taken_back_without_the_cloud(
    tmp_path: Path, broker: MosquittoBroker, repository: Repository
) -> None:
    """It computes what it was built to compute, and is sure of nothing."""
    van = TestVehicle(tmp_path / VAN, VAN, broker, repository, {"sign": tiny_bundle(tmp_path / "bundle")})
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.wait("it is known how it does", lambda: cloud.ledger(VAN).stored("health") >= 3)
        ref = repository.add(tiny_bundle(tmp_path / "bad", "tiny-bad", scale=1e-6), 2)
        cloud.desire(VAN, Desired(version=1, slots={"sign": ref}, policy=Policy(health_window_s=3.0)))
        cloud.wait("it is tried", lambda: cloud.reported[VAN].slots["sign"].state == "trial", 60)
        cloud.wait("it is taken back", lambda: cloud.reported[VAN].slots["sign"].state == "rolled-back", 60)
        slot = cloud.reported[VAN].slots["sign"]
        assert slot.error is not None and slot.error.code == HealthError.code
        assert slot.running == van.refs["sign"]


def test_captured_frames_arrive_whole_and_name_their_decision(
    tmp_path: Path, broker: MosquittoBroker, repository: Repository
) -> None:
    profile = SIGN_PROFILE + "[slots.sign.capture]\nevery = 10\nmax_bytes_per_s = 1000000\n"
    van = TestVehicle(tmp_path / VAN, VAN, broker, repository, {"sign": tiny_bundle(tmp_path / "bundle")}, profile)
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.wait("frames come", lambda: len(cloud.ledger(VAN).items) >= 5)
        van.stop()
        cloud.wait("everything is accounted for", lambda: cloud.ledger(VAN).holes() == {})
        ledger = cloud.ledger(VAN)
        for sha256, item in ledger.items.items():
            assert blob_content(ledger, sha256).startswith(b"\x89PNG")
            row = ledger.rows[1, item.about_stream][item.about_seq]
            assert row[6] == 1.0
        captured = sum(row[6] == 1.0 for row in ledger.rows[1, "sign-decision"].values())
        assert captured >= len(ledger.items)


SPEED_PROFILE = """
hardware = "test"
[sources.loops]
kind = "made-speeds"
days = 1
pace = "as-consumed"
rate_hz = 400.0
[slots.speed]
task = "traffic-speed"
runtime = "onnx"
source = "loops"
rate_hz = 400.0
"""


def test_a_lossless_replay_arrives_row_by_row(tmp_path: Path, broker: MosquittoBroker, repository: Repository) -> None:
    van = TestVehicle(
        tmp_path / VAN, VAN, broker, repository, {"speed": speed_bundle(tmp_path / "bundle")}, SPEED_PROFILE
    )
    with broker, SmallCloud(broker, repository) as cloud, van:
        steps = 288
        cloud.wait("every step is there", lambda: cloud.ledger(VAN).stored("road-speed") == 11 * steps, 60)
        cloud.wait("every forecast is there", lambda: cloud.ledger(VAN).stored("speed-decision") == steps - 11)
        rows = cloud.ledger(VAN).rows[1, "road-speed"].values()
        assert {row[0] for row in rows} == set(range(steps))
        assert cloud.ledger(VAN).lost == {}


def test_two_agents_never_share_a_state(van: TestVehicle) -> None:
    van.child("link")
    second = TestVehicle.__new__(TestVehicle)
    second.__dict__ = {**van.__dict__, "process": None}
    second.start()
    assert second.process is not None and second.process.wait(20) == 2
    assert "another agent runs on this state" in van.log()


@pytest.mark.slow
def test_the_supervisor_tells_systemd(tmp_path: Path, broker: MosquittoBroker, repository: Repository) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        van = TestVehicle(tmp_path / VAN, VAN, broker, repository, {"sign": tiny_bundle(tmp_path / "bundle")})
        os.environ.update(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="1000000")
        try:
            van.start()
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]
        heard = [listener.recv(200).decode() for _ in range(3)]
        assert heard[0].startswith("READY=1")
        assert heard[1:] == ["WATCHDOG=1", "WATCHDOG=1"]
        os.kill(van.child("drive"), signal.SIGSTOP)  # it makes no progress any more, and neither dies nor says so
        listener.settimeout(3)
        silent = False
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s and not silent:
            try:
                listener.recv(200)
            except TimeoutError:
                silent = True
        assert silent, "the watchdog was fed for a drive that stands still"
        van.wait("it is started again", lambda: "makes no progress" in van.log())
        van.stop()
        listener.settimeout(5)
        rest: list[str] = []
        while not rest or rest[-1] != "STOPPING=1":
            rest.append(listener.recv(200).decode())
