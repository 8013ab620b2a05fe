"""The one place that builds objects and connects them: drive, link; watch.py does it for the supervisor.

`python -m roadloop_agent.app drive|link|check …` is how the supervisor starts its children. Imports are made where
a process is built, so that each loads only its own: drive knows nothing of MQTT or TUF, link nothing of runtimes or
OpenCV.
"""

import argparse
import fcntl
import gc
import logging
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from roadloop_agent.config import FEEDS, Config, load_config
from roadloop_agent.heartbeat import Heartbeat
from roadloop_agent.ipc import FromDrive, Pipe
from roadloop_agent.log import setup_logging
from roadloop_agent.memory import Tidy, hand_back
from roadloop_agent.suspend import AwakeClock, SleepWatch
from roadloop_agent.update.store import Store
from roadloop_agent.watch import child_command
from roadloop_models import __version__
from roadloop_models.errors import ConfigError, ConflictError, DataError, RoadloopError
from roadloop_models.sealed import FileKeyStore

if TYPE_CHECKING:
    from roadloop_agent.drive.thermal import Thermometer
    from roadloop_agent.link.budget import LinkClass
    from roadloop_agent.link.process import Mailroom
    from roadloop_agent.link.spool import Spool
    from roadloop_agent.update.conditions import Surroundings
    from roadloop_agent.update.director import Assignment, Director
    from roadloop_agent.update.fetch import Inbox
    from roadloop_agent.update.glance import Fetcher as MetadataFetcher
    from roadloop_agent.update.https import HttpsFetcher
    from roadloop_agent.update.selftest import SelfTest
    from roadloop_agent.update.service import UpdateService
    from roadloop_agent.update.surroundings import VehicleSurroundings
    from roadloop_agent.update.trust import SignedTargets
    from roadloop_agent.update.trusted_time import TrustedTime
    from roadloop_agent.update.tuf_client import Fetcher
    from roadloop_models.contract.messages import ReleaseRef
    from roadloop_models.preprocess import ImageArray

_LOG = logging.getLogger(__name__)
_LOCK_NAME = "agent.lock"
_SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from a slot that has its result; Python's default is 5 ms."""
_LINK_NICE = 5
"""Link takes the processor when drive leaves it: what drives comes first."""
_SPOOL_JOIN_S = 1.0
_CHECK_AGAIN_S = 60.0
_DRAIN_S = 2.0
"""How long a clean stop may take to hand the last samples over."""


def open_store(config: Config) -> Store:
    """The versions of this vehicle."""
    variants = {name: table.variant_key for name, table in config.profile.slots.items()}
    return Store(config.state_dir / "store", variants, config.directory)


# Starting.


def run_agent(config_path: Path) -> NoReturn:
    """`roadloop-agent run`: look at all that can be wrong, then become the supervisor, until SIGTERM or SIGINT.

    Raises ConfigError where the configuration is wrong, TrustError or BundleError where the vehicle cannot be
    provisioned, ConflictError where another agent runs on the same state.
    """
    config = load_config(config_path)
    config.state_dir.mkdir(parents=True, exist_ok=True)
    _lock_state(config.state_dir)
    _provision_apart(config)
    watch = [sys.executable, "-m", "roadloop_agent.watch", str(config.path), str(config.state_dir)]
    os.execv(sys.executable, watch)


def _lock_state(state_dir: Path) -> None:
    """Hold the state until the supervisor, which inherits the lock, ends. Raises ConflictError."""
    lock = os.open(state_dir / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConflictError(f"{state_dir}: another agent runs on this state; stop it first") from error
    os.set_inheritable(lock, True)


def provision(config: Config) -> None:
    """Check the releases that the vehicle came with against their signatures and install them; idempotent."""
    from roadloop_agent.update.trust import verify_provisioned

    open_store(config).provision(partial(verify_provisioned, config.directory / "trust"))


def _provision_apart(config: Config) -> None:
    """In a process of its own: what checks signatures needs more memory than any that stays should ever have."""
    if open_store(config).is_provisioned():
        return
    done = subprocess.run(child_command("provision", str(config.path)), check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def check_reload(config: Config, state_dir: Path) -> None:
    """Whether a running agent may go on with this configuration; provisions the slots that are new in it.

    Raises ConfigError where it may not, TrustError or BundleError where a new slot cannot be provisioned.
    """
    from roadloop_agent.link.mqtt import tls_context

    if config.state_dir != state_dir:
        raise ConfigError(f"{config.path}: vehicle.state_dir has changed: that takes a restart, not a reload")
    broker = config.broker
    tls_context(*(config.identity_path(name) for name in (broker.ca, broker.certificate, broker.key)))
    if not open_store(config).is_provisioned():
        provision(config)


# Drive.


def run_drive(config: Config, pipe_fd: int, beat_fd: int | None) -> None:
    """The drive process, until SIGTERM. Raises DiskFullError, RetryLaterError where its start cannot be counted."""
    from roadloop_agent.boot import next_boot
    from roadloop_agent.drive.announcer import Announcer
    from roadloop_agent.drive.capture import Capture, Subscriber
    from roadloop_agent.drive.frames import Mailbox
    from roadloop_agent.drive.handlers import open_handler
    from roadloop_agent.drive.outbox import Outbox
    from roadloop_agent.drive.parking import Parking
    from roadloop_agent.drive.process import Drive, heartbeat_parts
    from roadloop_agent.drive.regulator import Regulated, Regulator
    from roadloop_agent.drive.roll import CaptureRoll
    from roadloop_agent.drive.shadow.attend import Shadows
    from roadloop_agent.drive.shadow.host import Installed, Shadow, spawner
    from roadloop_agent.drive.slots import Slot
    from roadloop_agent.drive.sources import opener

    clock = time.monotonic
    boot = next_boot(config.state_dir, config.spool_path)
    pipe = Pipe.from_fd(pipe_fd)
    outbox = Outbox(pipe, boot, clock)
    announcer = Announcer(pipe, boot)
    tables = config.profile.slots
    roll = CaptureRoll(boot, outbox, {name: t.capture.max_bytes_per_s for name, t in tables.items()}, _encode_image)
    mailboxes = {name: Mailbox() for name in tables}
    lossless = {name for name, t in tables.items() if config.profile.sources[t.source].pace == "as-consumed"}
    slots = [
        Slot(
            name=name,
            table=table,
            handler=open_handler(table),
            mailbox=mailboxes[name],
            outbox=outbox,
            announce=announcer.announce,
            roll=roll,
            clock=clock,
            deadline_s=None if table.deadline_ms is None or name in lossless else table.deadline_ms / 1000.0,
        )
        for name, table in tables.items()
    ]
    subscribers: dict[str, Subscriber] = {}
    captures = []
    parking = Parking(config.updates.parked_after_s, clock)
    active = {slot: table for slot, table in tables.items() if table.rate_hz > 0}
    for slot in tables.keys() - active.keys():
        mailboxes[slot].end()
    for name in dict.fromkeys(table.source for table in active.values()):
        source = config.profile.sources[name]
        readers = {slot: table for slot, table in active.items() if table.source == name}
        subscribers |= {
            slot: Subscriber(mailboxes[slot], 1.0 / (source.speed * table.rate_hz)) for slot, table in readers.items()
        }
        open_items = opener(source, config.source_path(source), clock, config.wanted_signals(name))
        captures.append(
            Capture(
                name=name,
                open_items=parking.watching(open_items) if FEEDS[type(source)] == "signals" else open_items,
                period_s=1.0 / (source.speed * (source.rate_hz or max(table.rate_hz for table in readers.values()))),
                pace=source.pace,
                loop=source.loop,
                subscribers=[subscribers[slot] for slot in readers],
                clock=clock,
                wall_ms=_wall_ms,
            )
        )
    regulator = Regulator(
        [
            Regulated(slot.name, slot.table.priority, slot.work, subscribers[slot.name])
            for slot in slots
            if slot.name in active and slot.name not in lossless
        ],
        _thermometer(config),
        clock,
    )

    def open_shadow(slot: str, candidate: Installed, incumbent: Installed, max_cpu_share: float) -> Shadow:
        return Shadow(
            slot=slot,
            candidate=candidate,
            incumbent=incumbent,
            max_cpu_share=max_cpu_share,
            spawn=spawner(tables[slot].variant_key, tables[slot].providers, config.sealing_key_path),
            clock=clock,
        )

    drive = Drive(
        boot=boot,
        slots=slots,
        captures=captures,
        regulator=regulator,
        roll=roll,
        outbox=outbox,
        announcer=announcer,
        pipe=pipe,
        versions=open_store(config),
        keys=FileKeyStore(config.sealing_key_path),
        heartbeat=Heartbeat(beat_fd, heartbeat_parts(tables, [capture.name for capture in captures]), clock),
        health_period_s=config.telemetry.health_period_s,
        shadows=Shadows(
            slots={slot.name: slot for slot in slots},
            open_shadow=open_shadow,
            strained=lambda: regulator.strained,
            say=outbox.send,
            clock=clock,
            boot=boot,
        ),
        parking=parking,
        tidy=Tidy(hand_back, clock),
        clock=clock,
        wall_ms=_wall_ms,
    )
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.freeze()
    drive.run(_stop_on_sigterm())


def _thermometer(config: Config) -> "Thermometer | None":
    from roadloop_agent.drive.thermal import SYSFS, Thermometer

    table = config.profile.thermal
    return None if table is None else Thermometer(table, SYSFS, _LOG.warning)


def _encode_image(image: "ImageArray") -> bytes:
    from roadloop_agent.drive.sources.images import encode_png

    return encode_png(image)


# Link.


def run_link(config: Config, pipe_fd: int, beat_fd: int | None) -> None:
    """The link process, until SIGTERM: what drive still sends is written down first."""
    from roadloop_agent.link.batcher import Batcher
    from roadloop_agent.link.budget import Traffic
    from roadloop_agent.link.cache import Cache
    from roadloop_agent.link.intake import PipeReader
    from roadloop_agent.link.local import LocalServer
    from roadloop_agent.link.metering import Metering
    from roadloop_agent.link.metrics import Meter
    from roadloop_agent.link.mqtt import Endpoint, MqttLink, tls_context
    from roadloop_agent.link.process import Link, Mailroom
    from roadloop_agent.link.routes import classifier, read_routes
    from roadloop_agent.link.session import SUBSCRIPTIONS, Session, SessionLimits
    from roadloop_agent.link.value import Appraiser

    clock = time.monotonic
    broker = config.broker
    pipe = Pipe.from_fd(pipe_fd)
    mailroom = Mailroom(pipe)
    heartbeat = Heartbeat(beat_fd, ["owner", "reader", "local"], clock)
    spool = _open_spool(config, clock())
    cache = Cache(config.cache_path)
    appraiser = Appraiser(cache.sketches(), config.network.highlight_share)
    meter = Meter(cache)
    local = LocalServer(
        socket_path=config.results_path,
        metrics_port=config.metrics.port,
        meter=meter,
        watch=mailroom.watch,
        clock=clock,
    )
    network = config.network
    traffic = Traffic({"metered": network.on_metered, "unmetered": network.on_unmetered}, spool.kept())
    surroundings = _surroundings(config, clock)
    updates = build_updates(config, mailroom, AwakeClock(clock), lambda: traffic.link_class, surroundings)
    session = Session(
        config.vehicle_id,
        secrets.token_hex(8),
        backlog=spool,
        random=random.SystemRandom().random,
        traffic=traffic,
        limits=SessionLimits(reconnect_min_s=broker.reconnect_min_s, reconnect_max_s=broker.reconnect_max_s),
    )
    transport = MqttLink(
        Endpoint(broker.host, broker.port, config.vehicle_id, broker.keepalive_s),
        tls_context(*(config.identity_path(name) for name in (broker.ca, broker.certificate, broker.key))),
        [(channel.subscription(config.vehicle_id), channel.qos) for channel in SUBSCRIPTIONS],
        mailroom.post,
    )
    link = Link(
        vehicle=config.vehicle_id,
        hardware=config.profile.hardware,
        desired_version=updates.desired_version,
        session=session,
        transport=transport,
        ledger=spool,
        updates=updates,
        mailroom=mailroom,
        status=meter,
        metering=Metering(
            traffic,
            classifier(network.metered, network.default_class, read_routes),
            keep=lambda facts: spool.keep(facts, clock()),
            mono=partial(time.clock_gettime, time.CLOCK_BOOTTIME),
            wall=time.time,
        ),
        clock=clock,
        beat=partial(heartbeat.beat, "owner"),
        tidy=Tidy(hand_back, clock),
        sleep=SleepWatch(partial(time.clock_gettime, time.CLOCK_BOOTTIME)),
    )

    def dispatch(message: FromDrive) -> None:
        local.hear(message)
        surroundings.hear(message)
        link.dispatch(message)

    reader = PipeReader(
        pipe=pipe,
        sink=spool,
        batcher=Batcher(config.telemetry.batch_samples, config.telemetry.batch_age_s, spool.known(), appraiser),
        remember=lambda: cache.put_sketches(appraiser.memory),
        dispatch=dispatch,
        stored=mailroom.spool_changed,
        clock=clock,
        beat=partial(heartbeat.beat, "reader"),
    )
    stop = _stop_on_sigterm(mailroom.spool_changed)
    serve = partial(local.run, stop, partial(heartbeat.beat, "local"))
    threading.Thread(target=serve, name="local", daemon=True).start()
    thread = threading.Thread(target=_or_stop(reader.run), args=(stop,), name="pipe-reader", daemon=True)
    updates.start()
    thread.start()
    threading.Thread(target=_or_stop(_check_spool), args=(spool, stop), name="spool-check", daemon=True).start()
    link.run(stop)
    thread.join(_SPOOL_JOIN_S)
    link.drain(_DRAIN_S)
    link.close()
    updates.stop()
    spool.close()
    cache.close()


def _open_spool(config: Config, now_s: float) -> "Spool":
    from roadloop_agent.link.spool import Spool

    limits = config.spool
    spool, damage = Spool.open_or_begin(config.spool_path, limits.max_bytes, limits.retain_committed_s, now_s)
    if damage is not None:
        _LOG.error("%s", damage)
    return spool


def _check_spool(spool: "Spool", stop: threading.Event) -> None:
    """Read the whole file, in the background. Raises DataError where it is damaged: the next link moves it aside."""
    sound = spool.check(stop.is_set)
    while sound is None and not stop.wait(_CHECK_AGAIN_S):
        sound = spool.check(stop.is_set)
    if sound is False:
        raise DataError("the spool is damaged")


def _or_stop(run: "Callable[..., None]") -> "Callable[..., None]":
    """For a thread: where it cannot go on, the process stops, and the supervisor starts another."""

    def guarded(*args: object) -> None:
        try:
            run(*args)
        except RoadloopError as error:
            _LOG.error("%s; link starts again", error)
            os.kill(os.getpid(), signal.SIGTERM)

    return guarded


def _surroundings(config: Config, clock: "Callable[[], float]") -> "VehicleSurroundings":
    from roadloop_agent.update.consent import Consents
    from roadloop_agent.update.surroundings import LocalClock, VehicleSurroundings
    from roadloop_agent.update.trusted_time import BUILT

    def least_time() -> datetime:
        from roadloop_agent.update.floor import read_floor

        floors = [read_floor(config.state_dir / client / "floor.json") for client in ("trust", "director")]
        return max([BUILT, *(floor.time for floor in floors if floor is not None)])

    uptime = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    local = LocalClock(lambda: datetime.now().astimezone(), uptime, least_time)
    return VehicleSurroundings(Consents(config.state_dir), local, clock)


def build_updates(
    config: Config,
    mailroom: "Mailroom",
    clock: "Callable[[], float]",
    link_class: "Callable[[], LinkClass]",
    surroundings: "Surroundings",
    *,
    selftest: "SelfTest | None" = None,
    read_images: "Callable[[Fetcher, TrustedTime], SignedTargets] | None" = None,
    inbox: "Inbox | None" = None,
    tick_s: float = 0.5,
) -> "UpdateService":
    """The update service and all that it needs.

    Digital twins have another `selftest` (by default a process of its own runs it), another way to read what the image
    repository signs (by default a client of this vehicle's own), and an `inbox` of blocks that they share turns at.
    """
    from roadloop_agent.update.apart import ask_apart
    from roadloop_agent.update.check import CheckSchedule, DirectorCheck
    from roadloop_agent.update.delivery import Delivery
    from roadloop_agent.update.director_memory import FLOOR_NAME
    from roadloop_agent.update.disk import disk_errors
    from roadloop_agent.update.fetch import BlockFetcher
    from roadloop_agent.update.floor import read_floor
    from roadloop_agent.update.glance import unchanged
    from roadloop_agent.update.selftest import SubprocessSelfTest
    from roadloop_agent.update.service import SlotSpec, UpdateService
    from roadloop_agent.update.shadows import ShadowFile, Shadows
    from roadloop_agent.update.transport import TransportFetcher
    from roadloop_agent.update.trusted_time import TrustedTime

    store = open_store(config)
    blocks = BlockFetcher(mailroom.send_fetch, clock, inbox=inbox, hear=mailroom.hear)
    https = None if config.files.url is None else _https_fetcher(config, config.files.url, mailroom, clock)
    fetcher = TransportFetcher(blocks, https, link_class, clock, lambda view: mailroom.show_files(asdict(view)))

    # python-tuf and its cryptography take 7 MB: they are loaded here when the first update comes.
    told = TrustedTime(lambda: datetime.now(UTC), clock)
    provisioned, memory = config.directory / "trust", config.state_dir / "director"

    def look() -> int:
        seen = unchanged(memory, blocks, told)
        if seen is not None:
            return seen
        if read_images is not None:  # of twins there are many in one process, which has it loaded
            return ask_director().version
        return ask_apart(child_command("director", str(config.path)), blocks, told)

    def ask_director() -> "Assignment":
        return _director(config, fetcher, told).refresh()

    def images() -> "SignedTargets":
        from roadloop_agent.update.trust import Trust

        if read_images is not None:
            return read_images(fetcher, told)
        return Trust(config.state_dir / "trust", provisioned, fetcher, told.now).refresh()

    def accept(slot: str, ref: "ReleaseRef", shadow: bool) -> "SignedTargets":
        from roadloop_agent.update.acceptance import Acceptance

        return Acceptance(check.assignment, images, store.slot)(slot, ref, shadow)

    chance = random.SystemRandom().random
    with disk_errors(config.state_dir):
        seen = read_floor(memory / FLOOR_NAME)
    version = 0 if seen is None else seen.versions.get("targets", 0)
    check = DirectorCheck(look, ask_director, mailroom.director, CheckSchedule(chance), mono=clock, version=version)
    slots = {name: SlotSpec(t.task, t.runtime, t.precision, t.providers) for name, t in config.profile.slots.items()}
    delivery = Delivery(
        staging=config.state_dir / "staging",
        store=store,
        refresh=accept,
        fetcher=fetcher,
        agent_version=__version__,
    )
    selftest = selftest or SubprocessSelfTest(sealing_key=config.sealing_key_path)
    return UpdateService(
        slots=slots,
        store=store,
        delivery=delivery,
        fetcher=blocks,
        selftest=selftest,
        shadows=Shadows(
            slots=slots,
            file=ShadowFile(config.state_dir / "shadows.json"),
            store=store,
            delivery=delivery,
            selftest=selftest,
            ask=mailroom.shadow,
            mono=clock,
            random=chance,
        ),
        report=mailroom.report,
        switch=mailroom.switch,
        mono=clock,
        random=chance,
        director=check,
        surroundings=surroundings,
        tick_s=tick_s,
    )


def _director(config: Config, fetcher: "MetadataFetcher", time: "TrustedTime") -> "Director":
    from roadloop_agent.update.director import Director

    return Director(config.state_dir / "director", config.directory / "trust", config.vehicle_id, fetcher, time)


def answer_apart(config: Config) -> None:
    """The process that asks the director for link, which fetches for it."""
    from roadloop_agent.update.apart import answer
    from roadloop_agent.update.trusted_time import TrustedTime

    def make(fetcher: "MetadataFetcher", told: datetime | None) -> "tuple[Director, TrustedTime]":
        clock = TrustedTime(lambda: datetime.now(UTC), time.monotonic)
        if told is not None:
            clock.told(told)
        return _director(config, fetcher, clock), clock

    answer(make)


def _https_fetcher(config: Config, url: str, mailroom: "Mailroom", clock: "Callable[[], float]") -> "HttpsFetcher":
    from roadloop_agent.link.mqtt import tls_context
    from roadloop_agent.update.https import HttpsFetcher, connector

    broker = config.broker
    tls = tls_context(*(config.identity_path(name) for name in (broker.ca, broker.certificate, broker.key)))
    return HttpsFetcher(connector(url, tls), clock, time.sleep, spent=mailroom.files_came)


# What the children have in common.


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _stop_on_sigterm(wake: "Callable[[], None] | None" = None) -> threading.Event:
    stop = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        stop.set()
        if wake is not None:
            wake()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return stop


def main(arguments: Sequence[str]) -> int:
    """One child process; the exit code."""
    parser = argparse.ArgumentParser(prog="roadloop_agent.app")
    parser.add_argument("role", choices=["drive", "link", "provision", "check", "director"])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--pipe", type=int)
    parser.add_argument("--beat", type=int)
    parser.add_argument("--state-dir", type=Path)
    parser.add_argument("--parent", type=int)
    options = parser.parse_args(arguments)
    setup_logging()
    if options.parent is not None:
        from roadloop_agent.supervisor import die_with_parent

        die_with_parent(options.parent)
    try:
        config = load_config(options.config)
        if options.role == "provision":
            provision(config)
        elif options.role == "check":
            check_reload(config, options.state_dir)
        elif options.role == "director":
            os.nice(_LINK_NICE)
            answer_apart(config)
        elif options.role == "drive":
            run_drive(config, options.pipe, options.beat)
        else:
            os.nice(_LINK_NICE)
            run_link(config, options.pipe, options.beat)
    except RoadloopError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
