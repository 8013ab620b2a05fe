"""What it costs a vehicle to ask whether there is anything new, and the cloud to say so: the director alone."""

import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from roadloop_agent.update.apart import ask_apart
from roadloop_agent.update.director import Director
from roadloop_agent.update.fetch import BlockFetcher
from roadloop_agent.update.glance import unchanged
from roadloop_agent.update.trusted_time import TrustedTime
from roadloop_agent.watch import child_command
from roadloop_cloud.fleet.blocks import BlockServer
from roadloop_cloud.fleet.director_files import DirectorFiles
from roadloop_cloud.fleet.files import RepositoryFiles
from roadloop_cloud.registry.director import DIRECTOR_OFFLINE, DIRECTOR_ONLINE, Directors
from roadloop_cloud.registry.keys import KeyFolder
from roadloop_models.contract import channels
from roadloop_models.contract.codec import decode, encode
from roadloop_models.contract.messages import Desired, FetchRequest, FileBlock, ReleaseRef
from tests.bench.figures import Figure, Result
from tests.fakes.agent import SIGN_PROFILE
from tests.fakes.repository import utc_now
from tests.fakes.staged_vehicle import StagedVehicle

VAN = "van-1"
CHECKS = 50
VEHICLES = 500
PUBLISH_OVERHEAD_BYTES = 6
"""MQTT 5: fixed header of 3, length of the topic 2, properties 1."""
_figure = partial(Figure, command="scripts/bench delivery")


def figures(_data: Path | None) -> list[Result]:
    """A check without change, of a vehicle with two slots; and how many vehicles the director signs for in a second.

    `check_verified_cpu_ms` is the same with every signature verified again, as when an update comes;
    `check_apart_cpu_ms` is what the process costs that does so where the timestamp alone is new, twice a day.
    """
    with tempfile.TemporaryDirectory() as folder:
        line = Line(Path(folder))
        line.director.refresh()
        glance_ms = line.vehicle_ms(line.glance)
        payload_bytes, wire_bytes = line.payload_bytes / CHECKS, line.wire_bytes / CHECKS
        verified_ms = line.vehicle_ms(line.director.refresh)
        apart_ms = line.apart_ms()
        signed_per_s, same_per_s = line.assigned_per_s()
    return [
        _figure("check_bytes", payload_bytes, "B", bar=600.0),
        _figure("check_wire_bytes", wire_bytes, "B"),
        _figure("check_cpu_ms", glance_ms, "ms", bar=10.0),
        _figure("check_verified_cpu_ms", verified_ms, "ms", bar=10.0),
        _figure("check_apart_cpu_ms", apart_ms, "ms"),
        _figure("director_signed_per_s", signed_per_s, "vehicles/s"),
        _figure("director_unchanged_per_s", same_per_s, "vehicles/s"),
        *_images(),
    ]


def _images() -> list[Result]:
    """A check of the image repository when nothing has changed."""
    with tempfile.TemporaryDirectory() as folder:
        vehicle = StagedVehicle(Path(folder), utc_now())
        vehicle.trust.refresh()
        received: list[int] = []
        deliver = vehicle.server.deliver

        def counted(sha256: str, n: int, block: object) -> None:
            received.append(len(getattr(block, "data", b"")))
            deliver(sha256, n, block)  # type: ignore[arg-type]

        vehicle.server.deliver = counted
        begin_s = time.process_time()
        for _ in range(CHECKS):
            vehicle.trust.refresh()
        cpu_ms = (time.process_time() - begin_s) * 1000 / CHECKS
    return [
        _figure("check_image_repository_bytes", sum(received) / CHECKS, "B"),
        _figure("check_image_repository_cpu_ms", cpu_ms, "ms", bar=10.0),
    ]


class Line:
    """The cloud's director and block server, and a vehicle's director client, with encoded messages between them."""

    def __init__(self, folder: Path) -> None:
        online, offline = (KeyFolder(folder / "keys" / name, keys) for name, keys in _KEYS.items())
        online.create()
        offline.create()
        self.directors = Directors(folder / "director", online.signers, lambda ref: 2000)
        self.directors.create(offline.signers())
        (folder / "trust" / "director").mkdir(parents=True)
        for path, content in self.directors.trust_files().items():
            (folder / "trust" / path).write_bytes(content)
        self.directors.assign(VAN, _desired(1))
        self.blocks = BlockServer(DirectorFiles(self.directors, RepositoryFiles(folder)), lambda vehicle: 1 << 30)
        self.fetcher = BlockFetcher(self.answer, time.monotonic)
        self.config, self.memory = folder / "vehicle.toml", folder / "state" / "director"
        self.config.write_text(_VEHICLE)
        (folder / "profile.toml").write_text(SIGN_PROFILE)
        self.clock = TrustedTime(utc_now, time.monotonic)
        self.director = Director(self.memory, folder / "trust", VAN, self.fetcher, self.clock)
        self.payload_bytes = self.wire_bytes = 0
        self.cloud_s = 0.0

    def vehicle_ms(self, check: Callable[[], object]) -> float:
        """Processor time of a check on the vehicle."""
        self.payload_bytes = self.wire_bytes = 0
        self.cloud_s = 0.0
        begin_s = time.process_time()
        for _ in range(CHECKS):
            check()
        return 1000 * (time.process_time() - begin_s - self.cloud_s) / CHECKS

    def glance(self) -> None:
        """Look whether there is news; there is none."""
        assert unchanged(self.memory, self.fetcher, self.clock) is not None

    def apart_ms(self) -> float:
        """Processor time of the process that verifies apart."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ask_apart(child_command("director", str(self.config)), self.fetcher, self.clock)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def answer(self, request: FetchRequest) -> None:
        """What the fleet service sends, and what a vehicle does with it; the cloud's time is counted apart."""
        begin_s = time.process_time()
        self.blocks.request(VAN, request, time.monotonic())
        sent = []
        while (outgoing := self.blocks.next_block(time.monotonic())) is not None:
            topic = channels.FILE.topic(VAN, sha256=outgoing.sha256, n=outgoing.n)
            sent.append((outgoing, topic, encode(channels.FILE, outgoing.block)))
        self.cloud_s += time.process_time() - begin_s
        for outgoing, topic, payload in sent:
            self.payload_bytes += len(payload)
            self.wire_bytes += len(payload) + len(topic) + PUBLISH_OVERHEAD_BYTES
            self.fetcher.deliver(outgoing.sha256, outgoing.n, decode(channels.FILE, payload, FileBlock))

    def assigned_per_s(self) -> tuple[float, float]:
        """Vehicles a second of one core: told something new, and the same again."""
        rates = []
        for _ in range(2):
            begin_s = time.process_time()
            for number in range(VEHICLES):
                self.directors.assign(f"van-{number}", _desired(2))
            rates.append(VEHICLES / (time.process_time() - begin_s))
        return rates[0], rates[1]


_VEHICLE = f'''[vehicle]
id = "{VAN}"
[broker]
host = "127.0.0.1"
port = 1
ca = "ca"
certificate = "certificate"
key = "key"
'''
_KEYS = {"online": DIRECTOR_ONLINE, "offline": DIRECTOR_OFFLINE}


def _desired(version: int) -> Desired:
    tasks = {"sign": "traffic-sign", "speed": "traffic-speed"}
    refs = {
        slot: ReleaseRef(task=task, release=2, version="v2", manifest_sha256="a" * 64) for slot, task in tasks.items()
    }
    return Desired(version=version, slots=refs)
