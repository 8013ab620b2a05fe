"""The link process at work: one owner thread that drives the session; everything else posts events to it."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from roadloop_agent.campaigns.shelf import Shelf
from roadloop_agent.ipc import (
    FromDrive,
    Hello,
    ShadowSums,
    SlotHealth,
    Switched,
)
from roadloop_agent.link.mailroom import (
    DirectorSaid,
    DriveSaid,
    Event,
    FilesCame,
    FromUpdates,
    Hear,
    Mailroom,
    TroubleChanged,
)
from roadloop_agent.link.metering import Metering
from roadloop_agent.link.mqtt import Acked, Connected, Disconnected, Received
from roadloop_agent.link.parts import Ledger, StatusStore, Transport, Updates
from roadloop_agent.link.session import Connect, Disconnect, Publish, Session, Subscribe, Unsubscribe
from roadloop_agent.memory import Tidy
from roadloop_agent.suspend import SleepWatch
from roadloop_models import __version__
from roadloop_models.contract import channels
from roadloop_models.contract.channels import parse_topic
from roadloop_models.contract.codec import decode
from roadloop_models.contract.messages import (
    Campaigns,
    Command,
    Cursor,
    Desired,
    ErrorInfo,
    FileBlock,
    Reported,
    ReportedSlot,
)
from roadloop_models.errors import DiskFullError, MessageError

_LOG = logging.getLogger(__name__)
_STATUS_PERIOD_S = 2.0
_TEND_PERIOD_S = 1.0
_CLOSE_TIMEOUT_S = 2.0


class Link:
    """Owns the session and the transport; one thread runs it. `desired_version`: the newest accepted before."""

    def __init__(
        self,
        *,
        vehicle: str,
        hardware: str,
        desired_version: int,
        session: Session,
        transport: Transport,
        ledger: Ledger,
        updates: Updates,
        campaigns: Shelf,
        mailroom: Mailroom,
        status: StatusStore,
        metering: Metering,
        clock: Callable[[], float],
        beat: Callable[[], None],
        tidy: Tidy,
        sleep: SleepWatch,
    ) -> None:
        self._vehicle = vehicle
        self._hardware = hardware
        self._session = session
        self._transport = transport
        self._ledger = ledger
        self._updates = updates
        self._campaigns = campaigns
        self._mailroom = mailroom
        self._status = status
        self._metering = metering
        self._clock = clock
        self._beat = beat
        self._tidy = tidy
        self._sleep = sleep
        self._boot = 0
        self._desired_version = desired_version
        self._director = DirectorSaid(0, None)
        self._slots: dict[str, ReportedSlot] = {}
        self._health: dict[str, SlotHealth] = {}
        self._stats = ledger.stats()
        self._status_s = 0.0
        self._tended_s = 0.0
        self._error = ""
        self._files: Mapping[str, Any] = {}

    def dispatch(self, message: FromDrive) -> None:
        """Messages of drive that are not telemetry; called in the reader's thread."""
        if isinstance(message, Hello):
            self._mailroom.post(DriveSaid(message))
            self._updates.on_hello(message)
        elif isinstance(message, SlotHealth):
            before, self._health[message.slot] = self._health.get(message.slot), message
            if _code(_trouble(before)) != _code(_trouble(message)):
                self._mailroom.post(TroubleChanged())
            self._updates.on_health(message)
        elif isinstance(message, Switched):
            self._updates.on_switched(message)
        elif isinstance(message, ShadowSums):
            self._updates.on_shadow(message)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            self._mailroom.heard()
            self._notice_sleep()
            self.act()
            self._beat()
            self._tend()
            self._tidy.poll()
            self._show_status()
            self._wait()
        self._show_status(force=True)

    def _notice_sleep(self) -> None:
        """A connection does not survive a suspend, though nobody says so: it is made anew, without waiting."""
        slept_s = self._sleep.slept_s()
        if slept_s:
            now_s = self._clock()
            self._drop(Disconnect(f"nothing ran for {slept_s:.0f} s: suspended?"), now_s)
            self._session.resumed(now_s)

    def drain(self, timeout_s: float) -> None:
        """Send what is left while there is a connection; what the cloud has not committed by then stays on disk."""
        until_s = self._clock() + timeout_s
        while self._session.view().connected and self._clock() < until_s:
            self._mailroom.heard()
            self.act()
            if not self._session.view().in_flight:
                return
            self._wait()

    def close(self) -> None:
        """Say goodbye where there is a connection, and end it."""
        for action in self._session.farewell():
            if isinstance(action, Publish):
                self._transport.publish(action)
        self._metering.settle(ended=True)
        self._transport.close(_CLOSE_TIMEOUT_S)
        self._session.disconnected("the agent has stopped", self._clock())
        self._show_status(force=True)

    def act(self) -> None:
        """Do what is due now."""
        now_s = self._clock()
        self._metering.tick()
        actions = self._session.poll(now_s)
        self._metering.settle()
        for action in actions:
            if isinstance(action, Publish):
                self._transport.publish(action)
            elif isinstance(action, Connect):
                self._transport.connect(self._session.will())
            elif isinstance(action, Subscribe):
                self._transport.subscribe(action.pattern)
            elif isinstance(action, Unsubscribe):
                self._transport.unsubscribe(action.pattern)
            else:
                self._drop(action, now_s)

    def _tend(self) -> None:
        """Once a second: on this thread it delays no sample."""
        now_s = self._clock()
        if now_s - self._tended_s < _TEND_PERIOD_S:
            return
        self._tended_s = now_s
        try:
            self._ledger.tend(now_s)
        except DiskFullError as error:
            _LOG.error("%s", error)

    def _drop(self, action: Disconnect, now_s: float) -> None:
        _LOG.warning("dropping the connection: %s", action.reason)
        self._transport.drop()
        self._session.disconnected(action.reason, now_s)

    def _wait(self) -> None:
        """Handle the next event, and what has come with it."""
        try:
            event = self._mailroom.events.get(timeout=self._session.next_poll_s(self._clock()))
        except queue.Empty:
            return
        while True:
            self.handle(event)
            try:
                event = self._mailroom.events.get_nowait()
            except queue.Empty:
                return

    def handle(self, event: Event) -> None:
        """Take one event."""
        now_s = self._clock()
        if isinstance(event, Received):
            self._receive(event, now_s)
        elif isinstance(event, Acked):
            self._session.acked(event.token, now_s)
        elif isinstance(event, Connected):
            _LOG.info("connected")
            self._metering.connected(event.address)
            self._session.connected(event.receive_maximum, event.session_present, now_s)
            self._updates.on_connected()
            self._report(now_s)
        elif isinstance(event, Disconnected):
            _LOG.warning("not connected: %s", event.reason)
            self._session.disconnected(event.reason, now_s)
        elif isinstance(event, FromUpdates):
            if event.fetch is not None:
                self._session.send(channels.FETCH, event.fetch)
            if event.slots is not None:
                self._slots = dict(event.slots)
                self._report(now_s)
        elif isinstance(event, DirectorSaid):
            self._director = event
            self._report(now_s)
        elif isinstance(event, Hear):
            self._session.hear(event.sha256)
        elif isinstance(event, FilesCame):
            self._session.spent(event.size_bytes)
            self._files = event.view or self._files
        elif isinstance(event, DriveSaid):
            self._boot = event.hello.boot
            self._session.set_boot(self._boot, __version__, self._hardware)
            self._report(now_s)
        elif isinstance(event, TroubleChanged):
            self._report(now_s)

    def _receive(self, event: Received, now_s: float) -> None:
        """One message of the cloud. What is malformed is noted and changes nothing."""
        self._session.received(event.topic, event.payload)
        try:
            address = parse_topic(event.topic)
            if address.channel is channels.CURSOR:
                self._apply(decode(channels.CURSOR, event.payload, Cursor), now_s)
            elif address.channel is channels.DESIRED:
                desired = decode(channels.DESIRED, event.payload, Desired)
                self._desired_version = max(self._desired_version, desired.version)
                self._updates.on_desired(desired)
                self._report(now_s)
            elif address.channel is channels.CAMPAIGNS:
                if self._campaigns.take(decode(channels.CAMPAIGNS, event.payload, Campaigns)):
                    self._report(now_s)
            elif address.channel is channels.COMMAND:
                self._session.command(decode(channels.COMMAND, event.payload, Command), now_s)
            elif address.channel in (channels.FILE, channels.FLEET_FILE):
                block = decode(address.channel, event.payload, FileBlock)
                self._updates.on_block(address.parts["sha256"], int(address.parts["n"]), block)
        except MessageError as error:
            self._error = str(error)
            _LOG.error("from the cloud: %s", error)

    def _apply(self, cursor: Cursor, now_s: float) -> None:
        try:
            effect = self._ledger.apply_cursor(cursor, now_s)
        except DiskFullError as error:
            _LOG.error("%s; the next cursor says the same again", error)
            return
        if effect.new_epoch:
            _LOG.warning("ledger epoch %d: the cloud was restored, sending again all that is held", cursor.epoch)
        self._session.committed(effect.committed, effect.new_epoch)

    def _report(self, now_s: float) -> None:
        """Give the session what is true now; nothing depends on whether it arrives."""
        if not self._slots or not self._boot:
            return
        self._stats = self._ledger.stats()
        self._session.set_reported(
            Reported(
                boot=self._boot,
                agent_version=__version__,
                hardware=self._hardware,
                desired_version=self._desired_version,
                slots=self._reported_slots(),
                spool_bytes=self._stats.used_bytes,
                spool_samples=self._stats.pending_samples,
                director_version=self._director.version,
                director_error=self._director.error,
                campaigns=self._campaigns.report,
            ),
            now_s,
        )

    def _reported_slots(self) -> dict[str, ReportedSlot]:
        """What the update service says of each slot, and what drive says keeps it from deciding."""
        health = dict(self._health)
        return {
            name: msgspec.structs.replace(slot, trouble=_trouble(health.get(name)))
            for name, slot in self._slots.items()
        }

    def _show_status(self, force: bool = False) -> None:
        now_s = self._clock()
        if not force and now_s - self._status_s < _STATUS_PERIOD_S:
            return
        self._status_s = now_s
        self._stats = self._ledger.stats()
        status = {
            "vehicle": self._vehicle,
            "hardware": self._hardware,
            "agent_version": __version__,
            "boot": self._boot,
            "at_ms": time.time_ns() // 1_000_000,
            "desired_version": self._desired_version,
            "director": msgspec.to_builtins(self._director),
            "connection": msgspec.to_builtins(self._session.view()),
            "message_error": self._error,
            "spool": msgspec.to_builtins(self._stats),
            "network": msgspec.to_builtins(self._metering.view()),
            "files": dict(self._files),
            "slots": msgspec.to_builtins(self._reported_slots()),
            "health": {name: _shown(health) for name, health in dict(self._health).items()},
        }
        self._status.put("status", status)


def _trouble(health: SlotHealth | None) -> ErrorInfo | None:
    return None if health is None or health.decisions else health.last_error


def _code(error: ErrorInfo | None) -> str | None:
    """Of errors with the same code one is told: their details may differ with every frame."""
    return None if error is None else error.code


def _shown(health: SlotHealth) -> dict[str, Any]:
    return {
        "decisions": health.decisions,
        "errors": health.errors,
        "latency_mean_us": health.latency_mean_us,
        "dropped": health.dropped,
        "late": health.late,
        "expired": health.expired,
        "shed": health.shed,
        "share": health.share,
        "idle": health.idle,
        "band": health.band,
        "temperature_c": health.temperature_c,
        "last_error": msgspec.to_builtins(health.last_error),
    }
