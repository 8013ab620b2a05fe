"""The director on a real agent behind a real broker: what is seen is reported, a forged wish is refused."""

from pathlib import Path

import pytest

from roadloop_models.contract import channels
from roadloop_models.contract.codec import encode
from roadloop_models.contract.messages import Desired, Policy
from tests.fakes.agent import TestVehicle
from tests.fakes.broker import MosquittoBroker
from tests.fakes.bundles import tiny_bundle
from tests.fakes.repository import VAN, Repository, utc_now
from tests.fakes.small_cloud import SmallCloud

POLICY = Policy(health_window_s=2.0)


@pytest.mark.slow
def test_what_is_seen_is_reported_and_a_forged_wish_is_refused(tmp_path: Path) -> None:
    broker, repository = MosquittoBroker(tmp_path / "broker"), Repository(utc_now())
    van = TestVehicle(tmp_path / VAN, VAN, broker, repository, {"sign": tiny_bundle(tmp_path / "bundle")})
    first = van.refs["sign"]
    second = repository.add(tiny_bundle(tmp_path / "second", "second", seed=5), 2)
    repository.assign(VAN, Desired(version=1, slots={"sign": first}))
    director = repository.director.seats[VAN].targets.signed
    with broker, SmallCloud(broker, repository) as cloud, van:
        cloud.wait("it has looked", lambda: VAN in cloud.reported and cloud.reported[VAN].director_version > 0, 60)
        assert cloud.reported[VAN].director_version == director.version

        forged = Desired(version=7, slots={"sign": second}, policy=POLICY)
        cloud.publish_raw(channels.DESIRED.topic(VAN), encode(channels.DESIRED, forged))
        cloud.wait("it is refused", lambda: cloud.reported[VAN].slots["sign"].error is not None, 60)
        slot = cloud.reported[VAN].slots["sign"]
        assert slot.error is not None and "the director does not name it" in slot.error.detail
        assert slot.running == first

        cloud.desire(VAN, Desired(version=8, slots={"sign": second}, policy=POLICY))
        cloud.wait("it runs what both agree on", lambda: cloud.reported[VAN].slots["sign"].running == second, 60)
        cloud.wait("and says that it saw", lambda: cloud.reported[VAN].director_version == director.version, 90)
        assert cloud.reported[VAN].director_error is None
        cloud.wait("and so does its status", lambda: van.status()["director"]["version"] == director.version)

        cloud.desire(VAN, Desired(version=9, slots={"sign": second}, policy=POLICY))
        repository.director.publish(VAN, named="van-2")
        cloud.wait("another's is reported", lambda: cloud.reported[VAN].director_error is not None, 120)
        error = cloud.reported[VAN].director_error
        assert error is not None and "is for vehicle 'van-2'" in error.detail
        assert cloud.reported[VAN].slots["sign"].running == second
