"""The update service: performs what the machine of each slot asks for, and tells it what came of it.

Two threads. The *owner* takes events in order, steps the machines and does what is short (the store's state, messages
to drive, reports). The *worker* does what takes long, one job after the other: downloads, self-tests, installing. A
job whose attempt is no longer the machine's is given up. Every input may be called from any thread and never waits.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from roadloop_agent.ipc import Hello, RunningSlot, ShadowSums, SlotHealth, Switched
from roadloop_agent.update import events as ev
from roadloop_agent.update import shadow
from roadloop_agent.update.check import DirectorCheck
from roadloop_agent.update.conditions import Facts, Surroundings
from roadloop_agent.update.delivery import Delivery
from roadloop_agent.update.fetch import BlockFetcher
from roadloop_agent.update.group import InSlot, advance, group_of
from roadloop_agent.update.phases import ENDED, Phase, SlotUpdate, recovered
from roadloop_agent.update.preparation import LongAction, Preparation, SlotSpec
from roadloop_agent.update.selftest import SelfTest
from roadloop_agent.update.shadows import Job as ShadowJob
from roadloop_agent.update.shadows import Shadows
from roadloop_agent.update.state import SlotState
from roadloop_agent.update.store import Store, error_info
from roadloop_models.contract.messages import Desired, ErrorInfo, FileBlock, ReleaseRef, ReportedSlot
from roadloop_models.errors import ConflictError, RetryLaterError, RoadloopError

__all__ = ["SlotSpec", "UpdateService"]

_LOG = logging.getLogger(__name__)
TICK_S = 0.5
_STOP_S = 3.0


@dataclass(frozen=True)
class _ForSlot:
    slot: str
    event: ev.Event


@dataclass(frozen=True)
class _ForShadow:
    slot: str
    event: shadow.Event


_Input: TypeAlias = Desired | Hello | SlotHealth | Switched | ShadowSums | _ForSlot | _ForShadow | None
_Job: TypeAlias = tuple[str, LongAction] | ShadowJob | DirectorCheck | None
"""What a slot's machine or its shadow waits for, or a question whether there is news; None: there may be garbage."""


class UpdateService:
    """See the module. `report` gets every slot on each change; `switch` tells drive what to load from where."""

    def __init__(
        self,
        *,
        slots: Mapping[str, SlotSpec],
        store: Store,
        delivery: Delivery,
        fetcher: BlockFetcher,
        selftest: SelfTest,
        report: Callable[[dict[str, ReportedSlot]], None],
        switch: Callable[[str, ReleaseRef, str], None],
        shadows: Shadows,
        mono: Callable[[], float],
        random: Callable[[], float],
        surroundings: Surroundings = Facts,
        director: DirectorCheck | None = None,
        tick_s: float = TICK_S,
    ) -> None:
        """`surroundings`: what the vehicle knows of itself when a release is ready; by default nothing."""
        self._slots = dict(slots)
        self._store = store
        self._delivery = delivery
        self._fetcher = fetcher
        self._preparation = Preparation(
            slots=self._slots,
            store=store,
            delivery=delivery,
            selftest=selftest,
            make_room=self._collect_garbage,
            mono=mono,
            random=random,
        )
        self._report = report
        self._switch = switch
        self._shadows = shadows
        self._mono = mono
        self._random = random
        self._surroundings = surroundings
        self._director = director
        self._tick_s = tick_s
        stored = store.read()
        self._desired_version = stored.desired_version
        self._states = {
            slot: recovered(spec.task, store.slot(slot), stored.desired_version) for slot, spec in self._slots.items()
        }
        self._running: dict[str, RunningSlot] = {}
        self._reported: dict[str, ReportedSlot] = {}
        self._inputs: queue.SimpleQueue[_Input] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._ticked_s = mono()
        self._threads = [
            threading.Thread(target=self._own, name="update", daemon=True),
            threading.Thread(target=self._work, name="update-worker", daemon=True),
        ]

    # Inputs, from any thread.

    @property
    def desired_version(self) -> int:
        """The newest desired version that was accepted."""
        return self._desired_version

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End within a few seconds; what is under way is taken up after the next start."""
        self._stopping.set()
        self._inputs.put(None)
        self._jobs.put(None)
        for thread in self._threads:
            thread.join(_STOP_S)
        self._shadows.remember()

    def cut(self) -> None:
        """End as a power cut does: what is under way is given up, and nothing more is written down."""
        self._stopping.set()

    def on_desired(self, desired: Desired) -> None:
        """The cloud's wish."""
        self._inputs.put(desired)

    def on_connected(self) -> None:
        """There is a new connection."""
        if self._director is not None:
            self._director.soon()

    def on_block(self, sha256: str, n: int, block: FileBlock) -> None:
        """Block `n` of the content with that hash has come."""
        self._fetcher.deliver(sha256, n, block)

    def on_hello(self, hello: Hello) -> None:
        """Drive has started, or link has found it running."""
        self._inputs.put(hello)

    def on_health(self, health: SlotHealth) -> None:
        """How a slot does."""
        self._inputs.put(health)

    def on_switched(self, switched: Switched) -> None:
        """Drive's answer to a switch."""
        self._inputs.put(switched)

    def on_shadow(self, sums: ShadowSums) -> None:
        """How a candidate does in a slot's shadow."""
        self._inputs.put(sums)

    # The owner.

    def _own(self) -> None:
        self._tell()
        while not self._stopping.is_set():
            self.turn(self._tick_s)

    def turn(self, wait_s: float) -> bool:
        """One turn of the owner: the next input, if one comes in time, and what is due; whether there was one."""
        try:
            item = self._inputs.get(timeout=wait_s) if wait_s > 0 else self._inputs.get_nowait()
        except queue.Empty:
            item = None
        try:
            if item is not None:
                self._take(item)
            if self._mono() - self._ticked_s >= self._tick_s:
                self._ticked_s = self._mono()
                self._step_all(ev.Tick())
                self._begin(self._shadows.tick({slot: _taken(state) for slot, state in self._states.items()}))
                if self._director is not None and self._director.is_due():
                    self._jobs.put(self._director)
        except Exception:  # noqa: BLE001
            # The states are as they were before this event; an update that stands still beats a vehicle that
            # never updates again.
            _LOG.exception("update: %s", type(item).__name__)
        self._tell()
        return item is not None

    def _take(self, item: Desired | Hello | SlotHealth | Switched | ShadowSums | _ForSlot | _ForShadow) -> None:
        if isinstance(item, Desired):
            self._take_desired(item)
        elif isinstance(item, Hello):
            for slot, running in item.slots.items():
                if slot in self._states:
                    self._running[slot] = running
                    self._step(slot, ev.DriveStarted(running.ref, self._store.slot(slot)))
            self._begin(self._shadows.drive_started())
        elif isinstance(item, SlotHealth):
            self._step(item.slot, ev.Health(item))
        elif isinstance(item, Switched):
            self._take_switched(item)
        elif isinstance(item, ShadowSums):
            self._begin(self._shadows.said(item))
        elif isinstance(item, _ForShadow):
            self._begin(self._shadows.answer(item.slot, item.event))
        else:
            self._step(item.slot, item.event)

    def _take_desired(self, desired: Desired) -> None:
        if desired.version < self._desired_version:
            _LOG.warning("desired %d is older than %d: ignored", desired.version, self._desired_version)
            return
        if desired.version == self._desired_version:
            self._fetcher.reconnected()  # a retained message comes again with a connection
        elif self._director is not None:
            self._director.soon()
        self._desired_version = desired.version
        try:
            self._store.accept_desired(desired.version)
        except RetryLaterError as error:
            _LOG.error("desired %d is followed, though it cannot be remembered: %s", desired.version, error)
        self._begin(self._shadows.want(desired))
        group = group_of(desired, self._states)
        for slot, ref in desired.slots.items():
            if slot not in self._states:
                _LOG.warning("desired %d names slot '%s', which this vehicle does not have", desired.version, slot)
                continue
            self._step(slot, ev.Desired(ref, desired.policy, desired.version, group if slot in group else ()))

    def _begin(self, jobs: Iterable[ShadowJob]) -> None:
        for job in jobs:
            self._jobs.put(job)

    def _take_switched(self, switched: Switched) -> None:
        if switched.ok and switched.slot in self._states:
            self._running[switched.slot] = RunningSlot(
                task=self._slots[switched.slot].task,
                ref=switched.ref,
                runtime=switched.runtime,
                precision=switched.precision,
                providers=switched.providers,
            )
        self._step(switched.slot, ev.Switched(switched.ref, switched.ok, switched.error))

    def _step_all(self, event: ev.Event) -> None:
        for slot in self._states:
            self._step(slot, event)

    def _step(self, slot: str, event: ev.Event) -> None:
        if slot not in self._states:
            _LOG.warning("drive names slot '%s', which the profile does not have", slot)
            return
        pending: deque[tuple[str, ev.Event]] = deque([(slot, event)])
        while pending:
            before = self._states
            self._states, actions = advance(before, *pending.popleft(), self._facts(), self._mono())
            for name, after in self._states.items():
                if after.phase is not before[name].phase:
                    _note(name, before[name], after)
                    if after.phase in ENDED:
                        self._jobs.put(None)
            for action in actions:
                if isinstance(action, InSlot):
                    self._perform(action.slot, action.action)
                else:
                    pending.extend(self._write(action))

    def _facts(self) -> Facts:
        """Asked for only where a release is ready or about to be: the time and the consents come from files."""
        if not any(state.phase in (Phase.INSTALLING, Phase.READY) for state in self._states.values()):
            return Facts()
        return replace(self._surroundings(), shadows=self._shadows.seen())

    def _perform(self, slot: str, action: ev.SlotAction) -> None:
        """Do what is short; hand what is long to the worker."""
        if isinstance(action, ev.Switch):
            self._switch(slot, action.ref, str(self._store.version_directory(action.ref)))
        elif isinstance(action, ev.RecordRefused):
            try:
                self._store.refuse(slot, action.ref, action.error)
            except RetryLaterError as error:
                _LOG.error("slot %s: the refusal cannot be remembered: %s", slot, error)
        else:
            self._jobs.put((slot, action))

    def _write(self, action: ev.GroupAction) -> list[tuple[str, ev.Event]]:
        """One write of the store; the answer to each of its slots."""
        if isinstance(action, ev.RememberReady):
            try:
                self._store.remember_ready(action.slot, action.ready)
            except RetryLaterError as error:
                _LOG.error("slot %s: what waits is forgotten at a restart: %s", action.slot, error)
            return []
        if isinstance(action, ev.BeginTrials):
            return self._answers(action.trials, lambda: self._store.begin_trials(action.trials), begins=True)
        if isinstance(action, ev.Confirm):
            return self._answers(action.refs, lambda: self._store.confirm(action.refs))
        return self._answers(action.ended, lambda: self._store.take_back(action.ended))

    def _answers(
        self, slots: Iterable[str], write: Callable[[], dict[str, SlotState]], *, begins: bool = False
    ) -> list[tuple[str, ev.Event]]:
        attempts = {slot: self._states[slot].attempt for slot in slots}
        try:
            stored = write()
        except RoadloopError as error:
            if begins or not isinstance(error, ConflictError):
                return [(slot, self._failed(attempt, error)) for slot, attempt in attempts.items()]
            stored = {slot: self._store.slot(slot) for slot in attempts}  # drive has ended the trial
        if begins:
            return [(slot, ev.TrialBegun(attempt)) for slot, attempt in attempts.items()]
        return [(slot, ev.Stored(attempt, stored[slot])) for slot, attempt in attempts.items()]

    # The worker.

    def _work(self) -> None:
        while not self._stopping.is_set():
            self.work()

    @property
    def has_work(self) -> bool:
        """Whether a job waits for the worker."""
        return not self._jobs.empty()

    def work(self) -> None:
        """The worker's next job; waits until there is one. One thread at a time."""
        job = self._jobs.get()
        if job is None:
            self._collect_garbage()
        elif isinstance(job, DirectorCheck):
            job.run()
        elif isinstance(job, ShadowJob):
            said = self._shadows.perform(job, lambda: self._stopping.is_set() or self.has_work)
            self._inputs.put(_ForShadow(job.slot, said))
        elif not self._is_given_up(job[0], job[1].attempt):
            slot, action = job
            event = self._preparation.do(
                slot,
                action,
                cancelled=lambda: self._is_given_up(slot, action.attempt),
                progress=lambda done, total: self._progress(slot, action.attempt, done, total),
            )
            self._inputs.put(_ForSlot(slot, event))

    def _progress(self, slot: str, attempt: int, done: int, total: int) -> None:
        self._inputs.put(_ForSlot(slot, ev.Progress(attempt, done, total)))

    def _collect_garbage(self) -> None:
        """Runs in the worker, so nothing is being installed meanwhile."""
        states = list(self._states.values())
        wanted = [state.target for state in states if state.target is not None and state.phase not in ENDED]
        wanted += self._shadows.wanted()
        try:
            self._delivery.discard(wanted)
            self._store.collect_garbage(wanted)
        except (RoadloopError, OSError) as error:
            _LOG.error("garbage stays for now: %s", error)

    def _is_given_up(self, slot: str, attempt: int) -> bool:
        return self._stopping.is_set() or self._states[slot].attempt != attempt

    def _failed(self, attempt: int, error: Exception) -> ev.Failed:
        return ev.Failed(attempt, error_info(error), self._random())

    # Reporting.

    def _tell(self) -> None:
        slots = {slot: self._view(slot, state) for slot, state in self._states.items()}
        if slots == self._reported:
            return
        self._reported = slots
        try:
            self._report(dict(slots))
        except Exception:  # noqa: BLE001
            _LOG.exception("reporting failed")  # and changes nothing: the next report says all of it again

    def _view(self, slot: str, state: SlotUpdate) -> ReportedSlot:
        spec, running = self._slots[slot], self._running.get(slot)
        error: ErrorInfo | None = state.error or (running.error if running is not None else None)
        return ReportedSlot(
            task=spec.task,
            running=state.running,
            runtime=running.runtime if running is not None else spec.runtime,
            precision=running.precision if running is not None else spec.precision,
            providers=running.providers if running is not None else (),
            state=state.phase.reported,
            target=state.target,
            error=error,
            blocks_done=state.blocks_done,
            blocks_total=state.blocks_total,
            waits_for=state.waits_for,
            shadow=self._shadows.report(slot),
        )


def _taken(state: SlotUpdate) -> tuple[ReleaseRef, ...]:
    """What the slot runs or is about to run: no candidate for its shadow."""
    about = None if state.phase in ENDED else state.target
    return tuple(ref for ref in (state.confirmed, state.running, about) if ref is not None)


def _note(slot: str, before: SlotUpdate, after: SlotUpdate) -> None:
    release = after.target.release if after.target is not None else after.confirmed.release
    reason = f" ({after.error.code}: {after.error.detail})" if after.error is not None else ""
    _LOG.info("slot %s: %s -> %s, release %d%s", slot, before.phase.label, after.phase.label, release, reason)
