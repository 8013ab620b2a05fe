"""Builds the link process."""

import logging
import os
import random
import secrets
import signal
import threading
import time
from collections.abc import Callable
from functools import partial

from roadloop_agent.app.child import stop_on_sigterm
from roadloop_agent.app.tls import vehicle_tls
from roadloop_agent.app.updates import build_surroundings, build_updates
from roadloop_agent.campaigns.shelf import Shelf
from roadloop_agent.config import Config
from roadloop_agent.heartbeat import Heartbeat
from roadloop_agent.ipc import FromDrive, Pipe
from roadloop_agent.link.batcher import Batcher
from roadloop_agent.link.budget import Traffic
from roadloop_agent.link.cache import Cache
from roadloop_agent.link.intake import PipeReader
from roadloop_agent.link.local import LocalServer
from roadloop_agent.link.mailroom import Mailroom
from roadloop_agent.link.metering import Metering
from roadloop_agent.link.metrics import Meter
from roadloop_agent.link.mqtt import Endpoint, MqttLink
from roadloop_agent.link.process import Link
from roadloop_agent.link.routes import classifier, read_routes
from roadloop_agent.link.session import SUBSCRIPTIONS, Session, SessionLimits
from roadloop_agent.link.sketches import SketchBook
from roadloop_agent.link.spool import Spool
from roadloop_agent.link.value import Appraiser
from roadloop_agent.memory import Tidy, hand_back
from roadloop_agent.suspend import AwakeClock, SleepWatch
from roadloop_models.errors import DataError, RoadloopError
from roadloop_models.sketches.reference import bundle_reference

_LOG = logging.getLogger(__name__)
_SPOOL_JOIN_S = 1.0
_CHECK_AGAIN_S = 60.0
_DRAIN_S = 2.0
"""How long a clean stop may take to hand the last samples over."""


def run_link(config: Config, pipe_fd: int, beat_fd: int | None) -> None:
    """The link process, until SIGTERM: what drive still sends is written down first."""
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
    surroundings = build_surroundings(config, clock)
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
        vehicle_tls(config),
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
        campaigns=Shelf(config.campaigns_path),
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

    book = SketchBook(
        period_s=config.telemetry.sketch_period_s,
        known=spool.known(),
        memory=cache.open_sketches(),
        reference=bundle_reference,
        now_s=clock(),
    )

    def remember() -> None:
        cache.put_sketches(appraiser.memory)
        cache.put_open_sketches(book.memory(clock()))

    reader = PipeReader(
        pipe=pipe,
        sink=spool,
        batcher=Batcher(config.telemetry.batch_samples, config.telemetry.batch_age_s, spool.known(), appraiser),
        book=book,
        remember=remember,
        dispatch=dispatch,
        stored=mailroom.spool_changed,
        clock=clock,
        beat=partial(heartbeat.beat, "reader"),
    )
    stop = stop_on_sigterm(mailroom.spool_changed)
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


def _open_spool(config: Config, now_s: float) -> Spool:
    limits = config.spool
    spool, damage = Spool.open_or_begin(config.spool_path, limits.max_bytes, limits.retain_committed_s, now_s)
    if damage is not None:
        _LOG.error("%s", damage)
    return spool


def _check_spool(spool: Spool, stop: threading.Event) -> None:
    """Read the whole file, in the background. Raises DataError where it is damaged: the next link moves it aside."""
    sound = spool.check(stop.is_set)
    while sound is None and not stop.wait(_CHECK_AGAIN_S):
        sound = spool.check(stop.is_set)
    if sound is False:
        raise DataError("the spool is damaged")


def _or_stop(run: Callable[..., None]) -> Callable[..., None]:
    """For a thread: where it cannot go on, the process stops, and the supervisor starts another."""

    def guarded(*args: object) -> None:
        try:
            run(*args)
        except RoadloopError as error:
            _LOG.error("%s; link starts again", error)
            os.kill(os.getpid(), signal.SIGTERM)

    return guarded
