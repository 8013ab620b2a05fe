"""A real agent with a candidate in the shadow: it decides nothing, is reported, and survives what restarts."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from roadloop_models.contract import channels
from roadloop_models.contract.messages import Desired, Policy, ReleaseRef, ShadowPolicy, ShadowReport
from roadloop_models.contract.streams import SIGN_DECISION
from roadloop_models.preprocess import ImageStandardize
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import Repository
from tests.fakes.small_cloud import SmallCloud

VAN = "van-1"
SHARE = ShadowPolicy(max_cpu_share=0.5)
RELEASE = [field.name for field in SIGN_DECISION.fields].index("release")


@pytest.fixture
def van(tmp_path: Path, broker: MosquittoBroker, repository: Repository) -> Iterator[TestVehicle]:
    van = TestVehicle(tmp_path / VAN, VAN, broker, repository, {"sign": tiny_bundle(tmp_path / "bundle")})
    with van:
        yield van


def shadow_of(cloud: SmallCloud) -> ShadowReport | None:
    reported = cloud.reported.get(VAN)
    return None if reported is None else reported.slots["sign"].shadow


def reported(cloud: SmallCloud, what: str, reached: Callable[[ShadowReport], bool]) -> ShadowReport:
    cloud.wait(what, lambda: (report := shadow_of(cloud)) is not None and reached(report), timeout_s=60.0)
    report = shadow_of(cloud)
    assert report is not None
    return report


def desire(cloud: SmallCloud, van: TestVehicle, version: int, candidate: ReleaseRef | None) -> None:
    shadows = {} if candidate is None else {"sign": candidate}
    slots = {"sign": van.refs["sign"]}
    policy = Policy(health_window_s=1.0)
    cloud.desire(VAN, Desired(version=version, slots=slots, shadows=shadows, shadow_policy=SHARE, policy=policy))


def shadows_running(van: TestVehicle) -> list[int]:
    """Processes of shadows: the children of drive."""
    drive = van.child("drive")
    return [int(pid) for task in Path(f"/proc/{drive}/task").iterdir() for pid in _read(task / "children").split()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def test_a_candidate_in_the_shadow_is_reported_decides_nothing_and_survives_restarts(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository, tmp_path: Path
) -> None:
    candidate = repository.add(tiny_bundle(tmp_path / "next", "tiny-2", seed=9), 2)
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("the vehicle reports", lambda: VAN in cloud.reported)
        desire(cloud, van, 1, candidate)
        first = reported(cloud, "it is compared", lambda report: report.state == "running" and report.frames > 20)
        assert first.disagreed > 0.5 * first.frames and first.errors == 0 and first.confidence_frames == first.frames

        van.kill("link")
        second = reported(cloud, "it goes on after link", lambda report: report.frames > first.frames + 20)
        van.kill("drive")
        third = reported(cloud, "it goes on after drive", lambda report: report.frames > second.frames + 20)
        assert third.ref == candidate
        (process,) = shadows_running(van)
        os.kill(process, signal.SIGKILL)
        reported(cloud, "it goes on after a kill of its own process", lambda r: r.frames > third.frames + 20)

        desire(cloud, van, 2, None)
        cloud.wait("nobody is in the shadow", lambda: shadow_of(cloud) is None)
        van.wait("its process is gone", lambda: not shadows_running(van))
        van.stop()
        cloud.wait("everything is accounted for", lambda: cloud.ledger(VAN).holes() == {})
        with cloud.lock:
            rows = [
                row
                for key, numbers in cloud.ledger(VAN).rows.items()
                if key[1] == SIGN_DECISION.name
                for row in numbers.values()
            ]
            assert {row[RELEASE] for row in rows} == {1.0}, "the incumbent alone decides"
            assert cloud.reported[VAN].slots["sign"].running == van.refs["sign"]


def test_a_candidate_that_fails_is_reported_and_the_slot_runs_on(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository, tmp_path: Path
) -> None:
    misfit = repository.add(tiny_bundle(tmp_path / "next", "tiny-2", preprocess=ImageStandardize(16, 16).spec), 2)
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("the vehicle reports", lambda: VAN in cloud.reported)
        desire(cloud, van, 1, misfit)
        report = reported(cloud, "it is refused", lambda report: report.state == "refused")
        assert report.error is not None and "fails on" in report.error.detail and report.frames == 0
        stored = cloud.ledger(VAN).stored(SIGN_DECISION.name)
        cloud.wait("decisions go on", lambda: cloud.ledger(VAN).stored(SIGN_DECISION.name) > stored + 50)
        slot = cloud.reported[VAN].slots["sign"]
        assert (slot.running, slot.state, slot.error) == (van.refs["sign"], "idle", None)


def test_a_release_that_the_director_does_not_name_for_the_shadow_is_not_taken(
    van: TestVehicle, broker: MosquittoBroker, repository: Repository, tmp_path: Path
) -> None:
    candidate = repository.add(tiny_bundle(tmp_path / "next", "tiny-2", seed=9), 2)
    with broker, SmallCloud(broker, repository) as cloud:
        cloud.wait("the vehicle reports", lambda: VAN in cloud.reported)
        without = Desired(version=1, slots={"sign": van.refs["sign"]})
        repository.assign(VAN, without)
        wish = Desired(version=2, slots={"sign": van.refs["sign"]}, shadows={"sign": candidate})
        cloud._publish(channels.DESIRED.topic(VAN), channels.DESIRED, wish)
        report = reported(cloud, "it says why", lambda report: report.error is not None)
        assert report.state == "loading" and report.frames == 0
        assert not shadows_running(van)
