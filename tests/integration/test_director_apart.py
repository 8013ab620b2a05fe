"""Looking for news: without cryptography where nothing changed, in a process of its own where something did."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError

from roadloop_agent.update.apart import ask_apart
from roadloop_agent.update.director import Director
from roadloop_agent.update.glance import unchanged
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_agent.watch import child_command
from roadloop_models.contract.messages import Desired, ReleaseRef
from roadloop_models.errors import FetchInterruptedError, RetryLaterError
from tests.fakes.agent import SIGN_PROFILE
from tests.fakes.director import FakeDirector
from tests.fakes.repository import VAN

REF = ReleaseRef(task="traffic-sign", release=2, version="v2", manifest_sha256="2" * 64)


class Vehicle:
    """A vehicle's folder, and the director that it asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.cloud = FakeDirector(self.now)
        self.cloud.assign(VAN, Desired(version=1, slots={"sign": REF}), lambda ref: 1)
        self.asked: list[str] = []
        (folder / "trust" / "director").mkdir(parents=True)
        (folder / "trust" / "director" / "root.json").write_bytes(self.cloud.root.to_bytes())
        (folder / "profile.toml").write_text(SIGN_PROFILE)
        self.config = folder / "vehicle.toml"
        self.config.write_text(
            f'[vehicle]\nid = "{VAN}"\n'
            '[broker]\nhost = "127.0.0.1"\nport = 1\nca = "ca"\ncertificate = "c"\nkey = "k"\n'
        )
        self.memory = folder / "state" / "director"
        self.start()

    def start(self) -> None:
        """Of the agent."""
        self.time = TrustedTime(lambda: self.now, lambda: 0.0)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """A fetcher."""
        self.asked.append(url)
        content = self.cloud.read(VAN, url)
        if content is None:
            raise DownloadHTTPError(url, 404)
        if len(content) > max_length:
            raise DownloadLengthMismatchError(url)
        return content

    def glance(self) -> int | None:
        return unchanged(self.memory, self, self.time)

    def apart(self) -> int:
        return ask_apart(child_command("director", str(self.config)), self, self.time)

    def here(self) -> int:
        director = Director(self.memory, self.folder / "trust", VAN, self, self.time)
        return director.refresh().version


@pytest.fixture
def vehicle(tmp_path: Path) -> Vehicle:
    return Vehicle(tmp_path)


def test_a_process_of_its_own_verifies_and_remembers(vehicle: Vehicle) -> None:
    assert vehicle.glance() is None, "nothing is remembered"
    version = vehicle.apart()
    assert version == vehicle.cloud.seats[VAN].targets.signed.version
    heard = vehicle.time.heard()
    assert heard is not None and timedelta() <= heard - vehicle.now < timedelta(seconds=60), "it says what it was told"
    vehicle.asked.clear()
    vehicle.now += timedelta(minutes=1)
    assert vehicle.glance() == version
    assert vehicle.asked == ["director/metadata/2.root.json", "director/metadata/timestamp.json"]
    assert vehicle.here() == version


def test_the_time_is_asked_once_in_a_start_whoever_asks(vehicle: Vehicle) -> None:
    vehicle.apart()
    vehicle.cloud.publish(VAN)
    vehicle.asked.clear()
    vehicle.apart()
    assert not [path for path in vehicle.asked if path.startswith("director/time/")]


def test_what_is_refused_there_is_refused_here(vehicle: Vehicle) -> None:
    vehicle.cloud.publish(VAN, named="van-2")
    with pytest.raises(MetadataError, match="is for vehicle 'van-2'"):
        vehicle.apart()


def test_what_the_fetcher_raises_here_is_raised(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(url: str, max_length: int) -> bytes:
        raise FetchInterruptedError("no block came")

    monkeypatch.setattr(vehicle, "download_bytes", silent)
    with pytest.raises(FetchInterruptedError, match="no block came"):
        vehicle.apart()


def test_endless_data_is_refused(vehicle: Vehicle) -> None:
    vehicle.cloud.seats[VAN].files["director/metadata/timestamp.json"] = bytes(600_000)
    with pytest.raises(MetadataError):
        vehicle.apart()


@pytest.mark.parametrize(
    "code", ["", "import os; os.write(1, b'\\xff' * 10)", "import os; os.write(1, b'\\0\\0\\0\\1x')"]
)
def test_a_process_that_ends_without_a_word_is_asked_later(vehicle: Vehicle, code: str) -> None:
    with pytest.raises(RetryLaterError, match="ended without a word"):
        ask_apart([sys.executable, "-S", "-c", code], vehicle, vehicle.time)


def test_a_process_that_hangs_is_ended(vehicle: Vehicle) -> None:
    hangs = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    with pytest.raises(RetryLaterError, match="ended without a word"):
        ask_apart(hangs, vehicle, vehicle.time, timeout_s=0.1)


CHANGES: dict[str, Callable[[Vehicle], object]] = {
    "a new assignment": lambda van: van.cloud.assign(VAN, Desired(version=2, slots={}), lambda ref: 1),
    "signed anew": lambda van: van.cloud.publish(VAN),
    "a new root": lambda van: van.cloud.sign_root(),
    "a new start": lambda van: van.start(),
    "expired": lambda van: setattr(van, "now", van.now + timedelta(days=1)),
    "a clock that was set back": lambda van: setattr(van, "now", van.now - timedelta(days=900)),
    "a lost floor": lambda van: (van.memory / "floor.json").unlink(),
    "a lost memory": lambda van: (van.memory / "metadata.json").write_bytes(b""),
    "another's timestamp": lambda van: van.cloud.publish(VAN, named="van-2"),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_glance_is_not_enough_for(vehicle: Vehicle, change: str) -> None:
    vehicle.here()
    assert vehicle.glance() is not None
    CHANGES[change](vehicle)
    assert vehicle.glance() is None


def test_a_floor_above_the_memory_takes_a_closer_look(vehicle: Vehicle) -> None:
    vehicle.here()
    memory = (vehicle.memory / "metadata.json").read_bytes()
    old = dict(vehicle.cloud.seats[VAN].files)
    vehicle.cloud.publish(VAN)
    vehicle.here()
    (vehicle.memory / "metadata.json").write_bytes(memory)
    vehicle.cloud.seats[VAN].files = old
    assert vehicle.glance() is None
    with pytest.raises(MetadataError, match="rollback"):
        vehicle.here()
