"""The update service over the choice of transports: what it does where a link may not be used, and by HTTPS alone."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from roadloop_agent.link.budget import LinkClass
from roadloop_agent.update.https import HttpsFetcher, connector
from roadloop_agent.update.transport import TransportFetcher
from roadloop_models.contract.messages import Policy
from tests.fakes.repository import utc_now
from tests.fakes.served_files import ServedFiles
from tests.fakes.staged_vehicle import StagedVehicle
from tests.fakes.update_rig import Rig

pytestmark = pytest.mark.usefixtures("fast_disk")


class Choosing:
    """A vehicle that has a file server with the files of its repository, and a link that the test turns."""

    def __init__(self, directory: Path, served: ServedFiles) -> None:
        self.vehicle = StagedVehicle(directory, utc_now())
        self.link_class: LinkClass = "unmetered"
        served.files.contents = self.vehicle.repository.files
        connect = connector(f"https://127.0.0.1:{served.port}", served.client_tls("van-1"))
        self.fetcher = TransportFetcher(
            self.vehicle.fetcher,
            HttpsFetcher(connect, time.monotonic, time.sleep),
            lambda: self.link_class,
            time.monotonic,
        )
        self.vehicle.delivery._fetcher = self.fetcher
        self.vehicle.trust._fetcher = self.vehicle.director._fetcher = self.fetcher
        self.rig = Rig(self.vehicle)


@pytest.fixture
def choosing(tmp_path: Path) -> Iterator[Callable[[], Choosing]]:
    with ExitStack() as stack:

        def make() -> Choosing:
            served = stack.enter_context(ServedFiles(tmp_path / "server"))
            made = Choosing(tmp_path / "vehicle", served)
            stack.callback(made.rig.service.stop)
            made.rig.start()
            return made

        yield make


def test_a_release_comes_by_https_and_its_metadata_by_mqtt(choosing: Callable[[], Choosing]) -> None:
    made = choosing()
    made.rig.desire(made.vehicle.second, 1, Policy(health_window_s=0.05, transport="https"))
    made.rig.until("idle", made.vehicle.second)
    assert made.vehicle.server.blocks("targets/") == 0 and made.vehicle.server.blocks("metadata/") > 0
    assert made.fetcher.view.https_files == 3 and made.fetcher.view.https_failures == 0


def test_a_release_that_may_not_come_over_a_metered_link_waits_and_says_why(choosing: Callable[[], Choosing]) -> None:
    made = choosing()
    made.link_class = "metered"
    made.rig.desire(made.vehicle.second, 1, Policy(health_window_s=0.05, metered=False))
    waiting = made.rig.until("waiting", made.vehicle.second)
    assert waiting.error is not None and waiting.error.code == "link-metered"
    assert made.vehicle.server.blocks("targets/") == 0
    made.link_class = "unmetered"
    made.rig.until("idle", made.vehicle.second)
