"""The cloud's director and the vehicle's with no network between them: who is told what, and what outlives a loss."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from tuf.api.exceptions import DownloadHTTPError

from roadloop_agent.update.director import Assignment, Director
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_cloud.fleet.director_files import DirectorFiles
from roadloop_cloud.fleet.files import ServedFile
from roadloop_cloud.registry.director import (
    DIRECTOR_OFFLINE,
    DIRECTOR_ONLINE,
    MAX_VERSION,
    Directors,
    ManifestSizes,
)
from roadloop_cloud.registry.director_keys import DirectorKeys
from roadloop_cloud.registry.keys import KeyFolder
from roadloop_cloud.store.ingest_tables import Vehicle
from roadloop_models.contract.messages import Desired, ReleaseRef
from roadloop_models.errors import ConfigError, MessageError, RetryLaterError
from tests.fakes.live_cloud import LiveCloud

NOW = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC)
SECOND = ReleaseRef(task="traffic-sign", release=2, version="v2", manifest_sha256="2" * 64)
THIRD = ReleaseRef(task="traffic-sign", release=3, version="v3", manifest_sha256="3" * 64)


class Nothing:
    """No other files."""

    def find(self, vehicle: str, path: str) -> ServedFile | None:
        return None


class Cloud:
    """A director in a folder, and the vehicles that ask it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = NOW
        self.offline = KeyFolder(root / "keys" / "offline", DIRECTOR_OFFLINE)
        self.online = KeyFolder(root / "keys" / "online", DIRECTOR_ONLINE)
        self.offline.create()
        self.online.create()
        self.asked: list[str] = []
        self.restart()
        self.directors.create(self.offline.signers())
        self.given = self.directors.trust_files()

    def restart(self) -> None:
        """Another process on the same folder."""
        self.directors = Directors(
            self.root / "director", self.online.signers, lambda ref: 1000 + ref.release, now=lambda: self.now
        )

    def vehicle(self, name: str) -> Director:
        """A start of an agent."""
        folder = self.root / name
        for path, content in self.given.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        files = DirectorFiles(self.directors, Nothing())
        return Director(
            folder / "state", folder, name, Wire(self, name, files), TrustedTime(lambda: self.now, self.mono)
        )

    def mono(self) -> float:
        return (self.now - NOW).total_seconds()

    def assign(self, vehicle: str, version: int, ref: ReleaseRef = SECOND) -> int:
        return self.directors.assign(vehicle, Desired(version=version, slots={"sign": ref}))


class Wire:
    """A fetcher that asks as one vehicle."""

    def __init__(self, cloud: Cloud, vehicle: str, files: DirectorFiles) -> None:
        self.cloud, self.vehicle, self.files = cloud, vehicle, files

    def download_bytes(self, url: str, max_length: int) -> bytes:
        self.cloud.asked.append(url)
        found = self.files.find(self.vehicle, url)
        if found is None:
            raise DownloadHTTPError(url, 404)
        content = found.read(0, found.size_bytes)
        assert len(content) <= max_length
        return content

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[BinaryIO]:
        raise AssertionError("the director has no files")
        yield


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def test_a_vehicle_is_told_what_is_for_it(cloud: Cloud) -> None:
    version = cloud.assign("van-1", 5)
    cloud.assign("van-2", 7, THIRD)
    assignment = cloud.vehicle("van-1").refresh()
    assert (assignment.version, assignment.counter) == (version, 5)
    assert assignment.allows("sign", SECOND).length == 1002
    with pytest.raises(MetadataError, match="does not name it"):
        assignment.allows("sign", THIRD)


def test_two_slots_and_a_shadow_are_told_apart(cloud: Cloud) -> None:
    cloud.directors.assign("van-1", Desired(version=1, slots={"a": SECOND, "b": SECOND}, shadows={"a": THIRD}))
    assignment = cloud.vehicle("van-1").refresh()
    assignment.allows("a", SECOND)
    assignment.allows("b", SECOND)
    assignment.allows("a", THIRD, shadow=True)
    for slot, ref, shadow in (("a", THIRD, False), ("b", THIRD, True), ("a", SECOND, True), ("c", SECOND, False)):
        with pytest.raises(MetadataError, match="does not name it"):
            assignment.allows(slot, ref, shadow=shadow)


def test_keys_that_a_vehicle_needs_come_with_the_assignment(cloud: Cloud) -> None:
    cloud.directors = Directors(
        cloud.root / "director",
        cloud.online.signers,
        lambda ref: 1,
        wrapped_keys=lambda vehicle, ref: {"content": f"{vehicle}-{ref.release}"},
        now=lambda: cloud.now,
    )
    cloud.assign("van-1", 1)
    assert cloud.vehicle("van-1").refresh().allows("sign", SECOND).keys == {"content": "van-1-2"}


def test_the_same_again_changes_nothing_and_costs_two_answers(cloud: Cloud) -> None:
    version = cloud.assign("van-1", 5)
    vehicle = cloud.vehicle("van-1")
    vehicle.refresh()
    cloud.now += timedelta(minutes=1)
    assert cloud.assign("van-1", 5) == version
    cloud.asked.clear()
    assert vehicle.refresh().version == version
    assert cloud.asked == ["director/metadata/2.root.json", "director/metadata/timestamp.json"]


def test_each_start_asks_the_time_once(cloud: Cloud) -> None:
    cloud.assign("van-1", 5)
    for _ in range(2):
        cloud.asked.clear()
        vehicle = cloud.vehicle("van-1")
        vehicle.refresh()
        vehicle.refresh()
        assert sum(path.startswith("director/time/") for path in cloud.asked) == 1


def test_nobody_is_given_what_is_anothers(cloud: Cloud) -> None:
    cloud.assign("van-1", 5)
    files = DirectorFiles(cloud.directors, Nothing())
    for path in ("metadata/timestamp.json", "van-1/metadata/timestamp.json", "../vehicles/van-1.json", "time/x", ""):
        assert files.find("van-2", f"director/{path}") is None
    with pytest.raises(MessageError):
        cloud.directors.read("../van-1", "metadata/timestamp.json")
    with pytest.raises(RetryLaterError):
        cloud.vehicle("van-2").refresh()


def test_timestamps_are_signed_anew_when_asked_for(cloud: Cloud) -> None:
    version = cloud.assign("van-1", 5)
    vehicle = cloud.vehicle("van-1")
    vehicle.refresh()
    for _ in range(5):
        cloud.now += timedelta(hours=23)
        assert vehicle.refresh().version == version
    cloud.now += timedelta(days=50)
    assert vehicle.refresh().version > version, "targets and snapshot too, in the middle of their lives"


def test_a_folder_that_was_lost_or_restored_wedges_no_vehicle(cloud: Cloud) -> None:
    backup = cloud.root / "backup"
    cloud.assign("van-1", 5)
    shutil.copytree(cloud.root / "director", backup)
    cloud.now += timedelta(hours=1)
    seen = cloud.assign("van-1", 6, THIRD)
    vehicle = cloud.vehicle("van-1")
    vehicle.refresh()
    shutil.rmtree(cloud.root / "director")
    shutil.copytree(backup, cloud.root / "director")
    cloud.restart()
    with pytest.raises(MetadataError, match="version"):
        cloud.vehicle("van-1").refresh()
    cloud.directors.catch_up("van-1", seen)
    with pytest.raises(MetadataError, match="assignment 5 is offered, 6 was seen before"):
        cloud.vehicle("van-1").refresh()
    cloud.now += timedelta(seconds=10)
    cloud.assign("van-1", 7)  # so desired.overtake numbers it, from what the vehicle reports
    assert cloud.vehicle("van-1").refresh().counter == 7
    shutil.rmtree(cloud.root / "director" / "vehicles")
    cloud.restart()
    cloud.now += timedelta(seconds=10)
    cloud.assign("van-1", 8)
    assert cloud.vehicle("van-1").refresh().counter == 8


def test_numbers_rise_above_what_a_vehicle_reports_though_the_clock_was_set_back(cloud: Cloud) -> None:
    version = cloud.assign("van-1", 5)
    cloud.directors.catch_up("van-1", version + 1000)
    assert cloud.vehicle("van-1").refresh().version == version + 1001
    cloud.directors.catch_up("van-1", MAX_VERSION + 1)
    assert cloud.assign("van-1", 6) == version + 1002


def test_a_torn_file_is_assigned_anew(cloud: Cloud) -> None:
    cloud.assign("van-1", 5)
    vehicle = cloud.vehicle("van-1")
    vehicle.refresh()
    path = cloud.root / "director" / "vehicles" / "van-1.json"
    path.write_bytes(path.read_bytes()[:200])
    cloud.restart()
    cloud.now += timedelta(seconds=10)
    cloud.assign("van-1", 5)
    assert vehicle.refresh().counter == 5


def test_new_online_keys_take_effect_with_a_new_root_in_every_process(cloud: Cloud) -> None:
    cloud.assign("van-1", 5)
    vehicle = cloud.vehicle("van-1")
    vehicle.refresh()
    other = Directors(cloud.root / "director", cloud.online.at_hand, lambda ref: 1, now=lambda: cloud.now)
    keys = DirectorKeys(other, cloud.offline, cloud.online, lambda: cloud.now)
    for role in ("targets", "snapshot", "timestamp"):
        keys.rotate(role, None)
    assert cloud.directors.root().version == 4
    assert vehicle.refresh().counter == 5
    (assigned,) = cloud.directors.root().roles["targets"].keyids
    assert assigned in {signer.public_key.keyid for signer in cloud.online.signers().values()}


def test_a_key_that_is_not_there_is_named(cloud: Cloud) -> None:
    (cloud.online.directory / "director-targets.pem").unlink()
    cloud.online.create()
    cloud.restart()
    with pytest.raises(ConfigError, match="names a director-targets key that is not among the online keys"):
        cloud.assign("van-1", 1)
    with pytest.raises(ConfigError, match="no director-root key"):
        Directors(cloud.root / "another", cloud.online.signers, lambda ref: 1).create({})


def test_a_release_that_the_image_repository_lacks_is_left_out(cloud: Cloud) -> None:
    sizes = ManifestSizes(cloud.root / "repository")
    assert sizes(SECOND) is None
    folder = cloud.root / "repository" / "targets" / SECOND.task / "2"
    folder.mkdir(parents=True)
    (folder / f"{SECOND.manifest_sha256}.manifest.json").write_bytes(b"12345")
    assert sizes(SECOND) == 5
    cloud.directors = Directors(cloud.root / "director", cloud.online.signers, sizes, now=lambda: cloud.now)
    cloud.directors.assign("van-1", Desired(version=1, slots={"a": SECOND, "b": THIRD}))
    assignment: Assignment = cloud.vehicle("van-1").refresh()
    assert list(assignment.named) == [f"{SECOND.task}/2/manifest.json"]


def test_a_vehicle_that_stays_behind_is_noticed(cloud: Cloud) -> None:
    version = cloud.assign("van-1", 5)
    cloud.now += timedelta(hours=2)
    assert cloud.directors.behind_s("van-1", version) == 0.0
    assert cloud.directors.behind_s("van-1", version - 1) == 7200.0
    assert cloud.directors.behind_s("van-2", 0) == 0.0
    cloud.now += timedelta(days=60)
    cloud.directors.read("van-1", "metadata/timestamp.json")
    assert cloud.directors.behind_s("van-1", version - 1) == 60 * 86400 + 7200.0, "signing it anew is no news"


def test_a_vehicle_that_is_kept_from_news_shows_in_the_list(tmp_path: Path) -> None:
    live = LiveCloud(tmp_path, "van-1", "van-2", "van-3")
    app = live.app
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    online = KeyFolder(app.workspace.online_keys, DIRECTOR_ONLINE)
    past = Directors(app.workspace.director, online.signers, lambda ref: 1, now=lambda: an_hour_ago)
    refs = {"sign": SECOND}
    seen = {vehicle: past.assign(vehicle, Desired(version=1, slots=refs)) for vehicle in ("van-1", "van-2", "van-3")}
    error = {"code": "trust-refused", "detail": "frozen"}
    with app.database.transaction() as session:
        for vehicle, behind in (("van-1", 0), ("van-2", 1), ("van-3", 1)):
            row = session.get_one(Vehicle, vehicle)
            row.online = vehicle != "van-3"
            row.reported = {"director_version": seen[vehicle] - behind, "slots": {}, "director_error": error}
    shown = {row["id"]: row["director_behind_s"] for row in roadloop(live, "vehicles", "list", "--json")}
    assert shown["van-1"] == shown["van-3"] == 0.0, "one has seen it, the other is not there"
    assert shown["van-2"] >= 3600.0
    text = roadloop_text(live, "vehicles", "show", "van-2")
    assert "has not seen its newest assignment for 60 min" in text and "trust-refused: frozen" in text


def roadloop_text(cloud: LiveCloud, *arguments: str) -> str:
    command = [sys.executable, "-P", "-c", "from roadloop_cloud.cli import main; main()", *arguments]
    workspace = ["--workspace", str(cloud.app.workspace.root)]
    done = subprocess.run([*command, *workspace], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def roadloop(cloud: LiveCloud, *arguments: str) -> Any:
    return json.loads(roadloop_text(cloud, *arguments))
