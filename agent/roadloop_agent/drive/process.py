"""The drive process at work: the main thread loads models, answers link and watches; all else has its own thread."""

import logging
import resource
import select
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from roadloop_agent.campaigns.keeper import Keeper
from roadloop_agent.drive.announcer import Announcer
from roadloop_agent.drive.capture import Capture
from roadloop_agent.drive.observer import Observer
from roadloop_agent.drive.outbox import Outbox
from roadloop_agent.drive.parking import Parking
from roadloop_agent.drive.pipeline import Model, load_model
from roadloop_agent.drive.regulator import Regulator
from roadloop_agent.drive.roll import CaptureRoll
from roadloop_agent.drive.shadow.attend import Shadows
from roadloop_agent.drive.slots import Slot, health_row
from roadloop_agent.drive.summary import Summaries
from roadloop_agent.heartbeat import Heartbeat
from roadloop_agent.ipc import (
    Attach,
    FromLink,
    Hello,
    Parked,
    Pipe,
    RunningSlot,
    ShadowWish,
    SlotHealth,
    Switch,
    Switched,
    Watch,
)
from roadloop_agent.memory import Tidy
from roadloop_agent.update.state import STARTS_ON_TRIAL, Ended, SlotState
from roadloop_agent.update.store import InstalledVersion, error_info
from roadloop_models.contract.messages import ErrorInfo, ReleaseRef
from roadloop_models.contract.streams import HEALTH, SUMMARY
from roadloop_models.errors import MessageError, RetryLaterError, RoadloopError
from roadloop_models.sealed import KeyStore

_LOG = logging.getLogger(__name__)
_WAIT_S = 0.05
_IDLE_WAIT_S = 0.25
"""Where nothing waits to be sent or switched: every wake-up of an idle vehicle costs."""
_FAREWELL_S = 1.5
_LOADS_AT_START = STARTS_ON_TRIAL + 1
"""A trial that cannot be taken back for want of a disk has ended after so many."""


class Versions(Protocol):
    """The part of the store that drive uses."""

    def start(self, slots: Iterable[str]) -> dict[str, InstalledVersion | RoadloopError]:
        """What to run now; spends a try of each trial."""

    def slot(self, slot: str) -> SlotState:
        """What is known of a slot now."""

    def take_back(self, ended: Mapping[str, Ended]) -> dict[str, SlotState]:
        """End trials that could not even be loaded, and all that go together with them."""


class Drive:
    """Owns the slots, their sources and drive's end of the pipe."""

    def __init__(
        self,
        *,
        boot: int,
        slots: Sequence[Slot],
        captures: Sequence[Capture],
        regulator: Regulator,
        roll: CaptureRoll,
        keeper: Keeper,
        outbox: Outbox,
        observer: Observer,
        announcer: Announcer,
        pipe: Pipe,
        versions: Versions,
        keys: KeyStore,
        heartbeat: Heartbeat,
        health_period_s: float,
        shadows: Shadows,
        parking: Parking,
        tidy: Tidy,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
    ) -> None:
        self._boot = boot
        self._slots = {slot.name: slot for slot in slots}
        self._captures = captures
        self._regulator = regulator
        self._roll = roll
        self._keeper = keeper
        self._outbox = outbox
        self._observer = observer
        self._announcer = announcer
        self._pipe = pipe
        self._versions = versions
        self._keys = keys
        self._heartbeat = heartbeat
        self._health_period_s = health_period_s
        self._shadows = shadows
        self._parking = parking
        self._tidy = tidy
        self._clock = clock
        self._wall_ms = wall_ms
        self._health_due_s = clock()
        self._summaries = Summaries(clock())
        self._errors: dict[str, ErrorInfo] = {}
        self._switching: dict[str, Model] = {}

    def run(self, stop: threading.Event) -> None:
        """Start everything, watch until `stop`, and send what is left."""
        self._drain_pipe()
        self._start_slots()
        threads = self._start_threads(stop)
        self._tidy.started()
        self._say_hello()
        while not stop.is_set():
            self._heartbeat.beat("main")
            self._listen()
            self._settle_switches()
            self._outbox.flush()
            self._observer.flush()
            self._tidy.poll()
            self._regulator.poll()
            self._shadows.poll()
            if self._clock() >= self._health_due_s:
                self._say_health()
        self._shadows.stop()
        for thread in threads:
            thread.join(_FAREWELL_S)
        self._say_health(ended=True)
        self._outbox.flush()
        self._observer.flush(ended=True)
        self._outbox.say_produced(ended=True)
        until_s = self._clock() + _FAREWELL_S
        while not self._outbox.is_empty() and self._clock() < until_s:
            select.select([], [self._pipe], [], _WAIT_S)

    def _start_threads(self, stop: threading.Event) -> list[threading.Thread]:
        def thread(name: str, run: Callable[[threading.Event, Callable[[], None]], None]) -> threading.Thread:
            return threading.Thread(target=run, args=(stop, lambda: self._heartbeat.beat(name)), name=name, daemon=True)

        threads = [thread(part_of_slot(name), slot.run) for name, slot in self._slots.items()]
        threads += [thread(part_of_source(capture.name), capture.run) for capture in self._captures]
        threads += [thread(ROLL_PART, self._roll.run), thread(KEEPER_PART, self._keeper.run)]
        for each in threads:
            each.start()
        return threads

    def _start_slots(self) -> None:
        """Load what the store says. A version on trial that does not load is taken back at once.

        Slots that are on trial together start together: where one of them cannot, the others go back as well.
        """
        names = list(self._slots)
        for _ in range(_LOADS_AT_START):
            versions = self._versions.start(names)
            failed = {name for name, version in versions.items() if not self._start_slot(self._slots[name], version)}
            on_trial = [name for name, one in versions.items() if isinstance(one, InstalledVersion) and one.on_trial]
            names = [name for name in on_trial if self._goes_back(name, failed)]

    def _goes_back(self, name: str, failed: set[str]) -> bool:
        """Whether a slot that started on trial has to start once more, without it."""
        try:
            state = self._versions.slot(name)
        except RoadloopError:
            return name in failed
        return state.trial is None or bool(failed & {name, *state.group})

    def _start_slot(self, slot: Slot, version: InstalledVersion | RoadloopError) -> bool:
        """Load a version; False where there is none that loads."""
        self._heartbeat.beat("main")
        if isinstance(version, RoadloopError):
            self._note(slot.name, version)
            return False
        try:
            table = slot.table
            slot.offer(load_model(version.directory, table.variant_key, version.ref, table.providers, self._keys))
        except RoadloopError as error:
            self._note(slot.name, error)
            if version.on_trial:
                self._take_back(slot.name, version.ref, error)
            return False
        self._errors.pop(slot.name, None)
        return True

    def _take_back(self, slot: str, ref: ReleaseRef, error: RoadloopError) -> None:
        try:
            self._versions.take_back({slot: Ended(ref, error_info(error))})
        except RetryLaterError as failure:
            _LOG.error("slot %s: %s", slot, failure)

    def _note(self, slot: str, error: RoadloopError) -> None:
        _LOG.error("slot %s: %s", slot, error)
        self._errors[slot] = error_info(error)

    def _drain_pipe(self) -> None:
        """What was asked of the drive before this one is over: this one begins with what the store says."""
        while True:
            try:
                if self._pipe.receive_from_link() is None:
                    return
            except MessageError:
                continue

    def _listen(self) -> None:
        wait_s = _WAIT_S if self._switching or self._outbox.waits else min(_IDLE_WAIT_S, self._health_period_s)
        readable, _, _ = select.select([self._pipe.fileno(), self._announcer.fileno()], [], [], wait_s)
        if self._announcer.fileno() in readable:
            self._announcer.send()
        if self._pipe.fileno() in readable:
            self._hear(self._receive())

    def _receive(self) -> FromLink | None:
        """The next message of link; None where there is none, or one that cannot be read."""
        try:
            return self._pipe.receive_from_link()
        except MessageError as error:
            _LOG.error("from link: %s", error)
            return None

    def _hear(self, message: FromLink | None) -> None:
        if isinstance(message, Attach):
            self._announcer.listened = False
            self._say_hello()
        elif isinstance(message, Watch):
            self._announcer.listened = message.on
        elif isinstance(message, Switch):
            self._switch(message)
        elif isinstance(message, ShadowWish):
            self._shadows.want(message)

    def _switch(self, message: FromLink | None) -> None:
        """Load and warm the new version here, in the main thread; the slot takes it between two frames.

        What is asked for meanwhile is loaded too before any of it is offered: slots that go together change at their
        next frames, and not one loading after the other.
        """
        loaded: dict[str, Model] = {}
        while message is not None:
            if isinstance(message, Switch):
                model, replaced = self._load(message), loaded.pop(message.slot, None)
                if replaced is not None:
                    replaced.close()
                if model is not None:
                    loaded[message.slot] = model
                self._heartbeat.beat("main")
            else:
                self._hear(message)
            message = self._receive()
        for name, model in loaded.items():
            self._switching[name] = model
            self._slots[name].offer(model)

    def _load(self, message: Switch) -> Model | None:
        """None where there is nothing to offer; drive has answered, then."""
        slot = self._slots.get(message.slot)
        if slot is None:
            _LOG.error("from link: there is no slot '%s'", message.slot)
            return None
        running = slot.running
        if running is not None and running.ref == message.ref:
            self._say_switched(slot, running)
            return None
        try:
            table = slot.table
            return load_model(Path(message.bundle_dir), table.variant_key, message.ref, table.providers, self._keys)
        except RoadloopError as error:
            _LOG.error("slot %s: %s", slot.name, error)
            answer = Switched(
                boot=self._boot,
                slot=slot.name,
                ref=message.ref,
                ok=False,
                runtime=slot.table.runtime,
                precision=slot.table.precision,
                error=error_info(error),
            )
            self._outbox.send(answer)
            return None

    def _settle_switches(self) -> None:
        for name, model in list(self._switching.items()):
            if self._slots[name].running is model:
                del self._switching[name]
                self._errors.pop(name, None)
                self._tidy.started()
                self._say_switched(self._slots[name], model)

    def _say_switched(self, slot: Slot, model: Model) -> None:
        assert model.ref is not None
        self._outbox.send(
            Switched(
                boot=self._boot,
                slot=slot.name,
                ref=model.ref,
                ok=True,
                runtime=model.variant.runtime,
                precision=model.variant.precision,
                providers=model.runner.providers,
            )
        )

    def _say_hello(self) -> None:
        slots = {}
        for name, slot in self._slots.items():
            model = slot.running_or_offered
            slots[name] = RunningSlot(
                task=slot.table.task,
                ref=None if model is None else model.ref,
                runtime=slot.table.runtime,
                precision=slot.table.precision,
                providers=() if model is None else model.runner.providers,
                error=self._errors.get(name),
            )
        self._outbox.send(Hello(boot=self._boot, slots=slots))

    def _say_health(self, ended: bool = False) -> None:
        self._health_due_s = self._clock() + self._health_period_s
        rss_mb = _rss_mb()
        source_errors = {capture.name: capture.collect_error() for capture in self._captures}
        for index, (name, slot) in enumerate(self._slots.items()):
            pace = self._regulator.pace(name)
            for tally in slot.collect():
                self._summaries.add(index, tally, slot.dropped, pace.shed)
                if not tally.decisions and not tally.errors and tally.ref != _ref(slot.running):
                    continue
                source_error = source_errors.get(slot.table.source)
                last_error = tally.last_error or (None if source_error is None else error_info(source_error))
                self._outbox.sample(HEALTH, self._wall_ms(), health_row(index, tally, slot.dropped, rss_mb, pace))
                self._outbox.send(
                    SlotHealth(
                        boot=self._boot,
                        slot=name,
                        ref=tally.ref,
                        decisions=tally.decisions,
                        errors=tally.errors,
                        latency_mean_us=tally.latency_mean_us,
                        latency_max_us=tally.latency_max_us,
                        confidence_mean=tally.confidence_mean,
                        dropped=slot.dropped,
                        # Without frames a version cannot show what it is worth: that is not its fault.
                        idle=slot.idle or source_error is not None or pace.share == 0,
                        last_error=last_error,
                        late=pace.late,
                        expired=pace.expired,
                        shed=pace.shed,
                        share=pace.share,
                        band=pace.band.name.lower(),
                        temperature_c=pace.temperature_c,
                    )
                )
        self._outbox.send(Parked(boot=self._boot, parked=self._parking.parked()))
        for row in self._summaries.rows(self._clock(), ended):
            self._outbox.sample(SUMMARY, self._wall_ms(), row)
        self._outbox.say_produced()


ROLL_PART = "roll"
KEEPER_PART = "campaigns"


def part_of_slot(name: str) -> str:
    """The name of a slot's thread, in the heartbeat too."""
    return f"slot-{name}"


def part_of_source(name: str) -> str:
    """The name of a source's thread, in the heartbeat too."""
    return f"source-{name}"


def heartbeat_parts(slots: Iterable[str], sources: Iterable[str]) -> list[str]:
    """Every thread of drive that must make progress."""
    return ["main", ROLL_PART, KEEPER_PART, *map(part_of_slot, slots), *map(part_of_source, sources)]


def _ref(model: Model | None) -> ReleaseRef | None:
    return None if model is None else model.ref


def _rss_mb() -> float:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6
