"""Builds the twins of one process and connects them, as ../app/ does it for a vehicle."""

import random
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

from roadloop_agent.app.store import open_store, provision
from roadloop_agent.app.tls import vehicle_tls
from roadloop_agent.app.updates import build_updates
from roadloop_agent.boot import next_boot
from roadloop_agent.campaigns.shelf import Shelf
from roadloop_agent.config import load_config
from roadloop_agent.link.batcher import Batcher
from roadloop_agent.link.budget import Traffic
from roadloop_agent.link.metering import Metering
from roadloop_agent.link.mqtt import Endpoint
from roadloop_agent.link.process import Link
from roadloop_agent.link.session import SUBSCRIPTIONS, Session, SessionLimits
from roadloop_agent.link.value import Appraiser, Memory
from roadloop_agent.memory import Tidy
from roadloop_agent.sim.drive import TwinDrive
from roadloop_agent.sim.fleet import TwinFleet
from roadloop_agent.sim.images import SharedImages
from roadloop_agent.sim.life import Life, Parts, TwinMailroom, WakingQueue
from roadloop_agent.sim.loop import Loop
from roadloop_agent.sim.mqtt import TwinMqtt
from roadloop_agent.sim.scenario import Fate, Scenario, fate_of
from roadloop_agent.sim.turns import PatientInbox, Turns
from roadloop_agent.sim.twin import Twin
from roadloop_agent.suspend import SleepWatch
from roadloop_agent.update.conditions import Facts
from roadloop_agent.update.selftest import Check, SelfTest
from roadloop_agent.update.service import SlotSpec
from roadloop_models.bundle import MANIFEST_NAME, parse_manifest
from roadloop_models.errors import GoldenMismatchError

WORKERS = 1024
"""How many twins of a process download at a time: mostly they wait, for blocks that go to many at once."""
TURNS = 2
CONNECTORS = 4
"""How many twins of a process connect at a time."""


def build_fleet(folders: Sequence[Path], scenario: Scenario, memory: Path) -> TwinFleet:
    """The twins that these folders provision; `memory`: a folder for what they share."""
    clock = time.monotonic
    allow_descriptors()
    loop = Loop(clock)
    workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="twin-worker")
    connectors = ThreadPoolExecutor(CONNECTORS, thread_name_prefix="twin-connect")
    turns = Turns(TURNS)
    images = SharedImages(memory / "images", folders[0] / "trust", clock, turns)
    twins = []
    for folder in folders:
        config = load_config(folder / "vehicle.toml")
        fate = fate_of(scenario, config.vehicle_id, config.profile.hardware)
        build = partial(_build, loop=loop, workers=workers, connectors=connectors, images=images, turns=turns)
        twins.append(Twin(config, fate, seed=str(scenario.seed), build=build, loop=loop, workers=workers, turns=turns))
    return TwinFleet(twins, loop, (workers, connectors), scenario.rates.start_within_s)


def allow_descriptors() -> None:
    """Raise the soft limit of open files to the hard one: every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _build(
    twin: Twin,
    *,
    loop: Loop,
    workers: ThreadPoolExecutor,
    connectors: ThreadPoolExecutor,
    images: SharedImages,
    turns: Turns,
) -> Life:
    """A start of the agent: as ../app/'s run_link and run_drive, with the twin's own transport, spool and drive."""
    config, clock, broker = twin.config, loop.clock, twin.config.broker
    config.state_dir.mkdir(parents=True, exist_ok=True)
    if not open_store(config).is_provisioned():
        provision(config)
    boot = next_boot(config.state_dir, config.spool_path)
    unmetered = config.network.on_unmetered
    traffic = Traffic({"metered": unmetered, "unmetered": unmetered}, {})
    session = Session(
        config.vehicle_id,
        f"twin-{random.getrandbits(32):08x}",
        backlog=twin.spool,
        random=twin.chance,
        traffic=traffic,
        limits=SessionLimits(reconnect_min_s=broker.reconnect_min_s, reconnect_max_s=broker.reconnect_max_s),
    )
    slots = {name: SlotSpec(t.task, t.runtime, t.precision, t.providers) for name, t in config.profile.slots.items()}
    events = WakingQueue()
    drive = TwinDrive(boot=boot, slots=slots, store=open_store(config), fate=twin.fate, random=twin.chance)
    mailroom = TwinMailroom(drive, events)
    transport = TwinMqtt(
        Endpoint(broker.host, broker.port, config.vehicle_id, broker.keepalive_s),
        lru_cache(1)(partial(vehicle_tls, config)),
        [(channel.subscription(config.vehicle_id), channel.qos) for channel in SUBSCRIPTIONS],
        mailroom.post,
        loop=loop,
        connectors=connectors,
        late=twin.late_s,
    )
    updates = build_updates(
        config,
        mailroom,
        clock,
        lambda: "unmetered",
        Facts,
        selftest=_selftest(twin.fate),
        read_images=images.read,
        inbox=PatientInbox(turns),
        tick_s=twin.fate.rates.tick_s,
    )
    link = Link(
        vehicle=config.vehicle_id,
        hardware=config.profile.hardware,
        desired_version=updates.desired_version,
        session=session,
        transport=transport,
        ledger=twin.spool,
        updates=updates,
        campaigns=Shelf(config.campaigns_path),
        mailroom=mailroom,
        status=_Nowhere(),
        metering=Metering(traffic, lambda _address: ("unmetered", None), lambda _facts: None, clock, time.time),
        clock=clock,
        beat=lambda: None,
        tidy=Tidy(lambda: None, clock),
        sleep=SleepWatch(clock),
    )
    drive.say = link.dispatch
    rates = twin.fate.rates
    batcher = Batcher(rates.batch_samples, rates.batch_age_s, twin.spool.produced, Appraiser(Memory(), 0.1))
    parts = Parts(
        mailroom=mailroom,
        events=events,
        link=link,
        session=session,
        transport=transport,
        updates=updates,
        drive=drive,
        batcher=batcher,
        spool=twin.spool,
    )
    return Life(parts, loop, workers, turns, lambda: time.time_ns() // 1_000_000)


class _Nowhere:
    """Keeps nothing: nobody asks one of thousands of twins for its status."""

    def put(self, key: str, value: object) -> None:
        """See link.process.StatusStore."""


def _selftest(fate: Fate) -> SelfTest:
    """The runner is not real: a bundle passes unless the scenario has its version for bad."""

    def selftest(check: Check, _cancelled: object) -> None:
        manifest = parse_manifest((Path(check.directory) / MANIFEST_NAME).read_bytes())
        bad = fate.of_version(manifest.task, manifest.version)
        if bad is not None and bad.effect == "golden":
            raise GoldenMismatchError(f"{manifest.task} {manifest.version}: the scenario says so")

    return selftest
