"""Builds the drive process."""

import gc
import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

from roadloop_agent.app.child import stop_on_sigterm, wall_ms
from roadloop_agent.app.store import open_store
from roadloop_agent.boot import next_boot
from roadloop_agent.campaigns.keeper import Keeper
from roadloop_agent.campaigns.privacy import open_darkroom
from roadloop_agent.config import FEEDS, Config
from roadloop_agent.drive.announcer import Announcer
from roadloop_agent.drive.capture import Capture, Subscriber
from roadloop_agent.drive.frames import Mailbox
from roadloop_agent.drive.handlers import open_handler
from roadloop_agent.drive.observer import Observer
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.parking import Parking
from roadloop_agent.drive.process import Drive, heartbeat_parts
from roadloop_agent.drive.regulator import Regulated, Regulator
from roadloop_agent.drive.roll import CaptureRoll
from roadloop_agent.drive.shadow.attend import Shadows
from roadloop_agent.drive.shadow.host import Installed, Shadow, spawner
from roadloop_agent.drive.slots import Slot
from roadloop_agent.drive.sources import opener
from roadloop_agent.drive.thermal import SYSFS, Thermometer
from roadloop_agent.heartbeat import Heartbeat
from roadloop_agent.ipc import Pipe
from roadloop_agent.memory import Tidy, hand_back
from roadloop_models.preprocess import ImageArray
from roadloop_models.sealed import FileKeyStore

_LOG = logging.getLogger(__name__)
_SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from a slot that has its result; Python's default is 5 ms."""


def run_drive(config: Config, pipe_fd: int, beat_fd: int | None) -> None:
    """The drive process, until SIGTERM. Raises DiskFullError, RetryLaterError where its start cannot be counted."""
    clock = time.monotonic
    boot = next_boot(config.state_dir, config.spool_path)
    pipe = Pipe.from_fd(pipe_fd)
    outbox = Outbox(pipe, boot, clock)
    observer = Observer(boot, outbox.try_send, clock)
    announcer = Announcer(pipe, boot)
    tables = config.profile.slots
    develop = open_darkroom(config.privacy_detector, config.privacy.labels, _encode_image)
    roll = CaptureRoll(boot, outbox, {name: t.capture.max_bytes_per_s for name, t in tables.items()}, develop)
    keeper = Keeper(
        slots=tables,
        post=roll.post,
        develop=develop,
        position_m=config.privacy.position_m,
        shelf=config.campaigns_path,
        memory=config.campaign_budgets_path,
        clock=clock,
        boottime=partial(time.clock_gettime, time.CLOCK_BOOTTIME),
        wall=time.time,
    )
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
            observer=observer,
            keeper=keeper,
        )
        for name, table in tables.items()
    ]
    parking = Parking(config.updates.parked_after_s, clock)
    captures, subscribers = _captures(config, mailboxes, parking, clock)
    regulator = Regulator(
        [
            Regulated(slot.name, slot.table.priority, slot.work, subscribers[slot.name])
            for slot in slots
            if slot.name in subscribers and slot.name not in lossless
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
            told=partial(keeper.compared, slot),
        )

    drive = Drive(
        boot=boot,
        slots=slots,
        captures=captures,
        regulator=regulator,
        roll=roll,
        keeper=keeper,
        outbox=outbox,
        observer=observer,
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
        wall_ms=wall_ms,
    )
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.freeze()
    drive.run(stop_on_sigterm())


def _captures(
    config: Config, mailboxes: Mapping[str, Mailbox], parking: Parking, clock: Callable[[], float]
) -> tuple[list[Capture], dict[str, Subscriber]]:
    """One capture for each source that a slot reads, and what each of these slots takes of it.

    The mailbox of a slot that is switched off, with a rate of 0, is ended.
    """
    subscribers: dict[str, Subscriber] = {}
    captures = []
    tables = config.profile.slots
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
                wall_ms=wall_ms,
            )
        )
    return captures, subscribers


def _thermometer(config: Config) -> Thermometer | None:
    table = config.profile.thermal
    return None if table is None else Thermometer(table, SYSFS, _LOG.warning)


def _encode_image(image: ImageArray) -> bytes:
    # A vehicle without a camera must not load OpenCV.
    from roadloop_agent.drive.sources.images import encode_png

    return encode_png(image)
