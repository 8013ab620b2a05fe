"""Performs what the machine of each slot's shadow asks for, on behalf of the update service.

Its owner thread tells what happened and gets back the jobs that take long; its worker does them between updates, which
come first. What a candidate adds up to is kept in a file that may be lost: a minute of it where the power is cut.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from roadloop_agent.ipc import ShadowSums, ShadowWish
from roadloop_agent.update import disk, shadow
from roadloop_agent.update.delivery import Delivery
from roadloop_agent.update.refused import MetadataError
from roadloop_agent.update.selftest import Check, SelfTest
from roadloop_agent.update.shadow import Memory, SlotShadow
from roadloop_agent.update.store import Store, error_info
from roadloop_models.contract.messages import Desired, ReleaseRef, ShadowReport
from roadloop_models.errors import BadInputError, ConfigError, RoadloopError
from roadloop_models.typed import from_json

if TYPE_CHECKING:
    from roadloop_agent.update.service import SlotSpec

_LOG = logging.getLogger(__name__)
REPORT_S = 10.0
"""Sums alone are reported no more often; a change of state at once."""
REMEMBER_S = 60.0
MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """A candidate to be fetched, tested and installed."""

    slot: str
    prepare: shadow.Prepare


class ShadowFile:
    """`shadows.json`: slot -> Memory. One that cannot be read is begun anew."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Memory]:
        """What is there; empty where there is nothing."""
        try:
            with self._path.open("rb") as file:
                return from_json(file.read(MAX_FILE_BYTES), dict[str, Memory])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _LOG.error("%s: %s; candidates in the shadow begin anew", self._path, error)
            return {}

    def write(self, memories: Mapping[str, Memory]) -> None:
        """Replace it. What the disk does not take is not remembered: that must stop nobody."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            disk.write_durably(self._path, msgspec.json.encode(memories))
        except OSError as error:
            _LOG.error("%s: what candidates in the shadow did is not remembered: %s", self._path, error)


class Shadows:
    """See the module. `ask` tells drive; where that is lost it is asked again."""

    def __init__(
        self,
        *,
        slots: "Mapping[str, SlotSpec]",
        file: ShadowFile,
        store: Store,
        delivery: Delivery,
        selftest: SelfTest,
        ask: Callable[[ShadowWish], None],
        mono: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._slots = dict(slots)
        self._file = file
        self._store = store
        self._delivery = delivery
        self._selftest = selftest
        self._ask = ask
        self._mono = mono
        self._random = random
        remembered = file.read()
        self._states = {
            slot: shadow.recovered(spec.task, remembered.get(slot, Memory())) for slot, spec in self._slots.items()
        }
        self._remembered = {slot: state.memory for slot, state in self._states.items()}
        self._remember_due_s = mono() + REMEMBER_S
        self._reports: dict[str, tuple[float, ShadowReport | None]] = {}

    # For the owner.

    def want(self, desired: Desired) -> list[Job]:
        """The cloud's wish: who runs in which shadow, and nobody where it names none."""
        for slot in desired.shadows.keys() - self._states.keys():
            _LOG.warning("desired %d names the shadow of slot '%s', which is not here", desired.version, slot)
        return self._step_each(lambda slot: shadow.Wanted(desired.shadows.get(slot), desired.shadow_policy))

    def said(self, sums: ShadowSums) -> list[Job]:
        """Drive's word about a candidate."""
        return self._step(sums.slot, shadow.Said(sums.incumbent, sums.run, sums.report))

    def drive_started(self) -> list[Job]:
        """Drive does not know of any shadow yet."""
        return self._step_each(lambda slot: shadow.DriveStarted())

    def tick(self, taken: Mapping[str, tuple[ReleaseRef, ...]]) -> list[Job]:
        """Time has passed. `taken`: what each slot runs, and what its update is about."""
        jobs = self._step_each(lambda slot: shadow.Tick(taken.get(slot, ())))
        if self._mono() >= self._remember_due_s:
            self.remember()
        return jobs

    def answer(self, slot: str, event: shadow.Event) -> list[Job]:
        """What came of a job."""
        return self._step(slot, event)

    def report(self, slot: str) -> ShadowReport | None:
        """What to report of a slot's shadow; the same again for a while where nothing but the sums has changed."""
        report = self._states[slot].report
        told_s, told = self._reports.get(slot, (-REPORT_S, None))
        if _besides_sums(report) == _besides_sums(told) and self._mono() - told_s < REPORT_S:
            return told
        self._reports[slot] = (self._mono(), report)
        return report

    def seen(self) -> dict[str, ShadowReport]:
        """What is known of the last candidate of each slot, whether or not it is still there."""
        return {slot: seen for slot, state in self._states.items() if (seen := state.seen) is not None}

    def wanted(self) -> list[ReleaseRef]:
        """Releases whose files must stay."""
        return [state.wanted for state in self._states.values() if state.wanted is not None]

    def remember(self) -> None:
        """Write what has changed."""
        self._remember_due_s = self._mono() + REMEMBER_S
        memories = {slot: state.memory for slot, state in self._states.items()}
        if memories != self._remembered:
            self._file.write(memories)
            self._remembered = memories

    # For the worker.

    def perform(self, job: Job, busy: Callable[[], bool]) -> shadow.Event:
        """Prepare a candidate; given up where it is not wanted any more, or an update is waiting (`busy`)."""
        attempt, ref = job.prepare.attempt, job.prepare.ref
        try:
            self._prepare(job.slot, ref, lambda: busy() or self._is_given_up(job))
        except (MetadataError, ConfigError) as error:  # what is signed, or configured, today
            return shadow.Failed(attempt, error_info(error), self._random())
        except BadInputError as error:
            return shadow.Refused(attempt, error_info(error))
        except (RoadloopError, OSError) as error:
            return shadow.Failed(attempt, error_info(error), self._random())
        except Exception as error:  # noqa: BLE001 (a fault of the agent is reported like any other)
            _LOG.exception("slot %s: release %d for its shadow", job.slot, ref.release)
            return shadow.Failed(attempt, error_info(error), self._random())
        return shadow.Prepared(attempt)

    def _prepare(self, slot: str, ref: ReleaseRef, cancelled: Callable[[], bool]) -> None:
        spec = self._slots[slot]
        self._delivery.fetch(ref, spec.variant, slot=slot, shadow=True, cancelled=cancelled)
        directory = self._delivery.directory(ref)
        self._selftest(Check(directory=str(directory), variant=spec.variant, providers=spec.providers), cancelled)
        self._store.install(slot, ref, directory)

    def _is_given_up(self, job: Job) -> bool:
        return self._states[job.slot].attempt != job.prepare.attempt

    # Inside.

    def _step_each(self, event_of: Callable[[str], shadow.Event]) -> list[Job]:
        return [job for slot in self._states for job in self._step(slot, event_of(slot))]

    def _step(self, slot: str, event: shadow.Event) -> list[Job]:
        if slot not in self._states:
            _LOG.warning("drive names slot '%s', which the profile does not have", slot)
            return []
        before = self._states[slot]
        after, actions = shadow.step(before, event, self._mono())
        self._states[slot] = after
        if after.phase is not before.phase:
            _note(slot, after)
            self.remember()
        return list(self._perform(slot, actions))

    def _perform(self, slot: str, actions: Iterable[shadow.Action]) -> Iterable[Job]:
        for action in actions:
            if isinstance(action, shadow.Prepare):
                yield Job(slot, action)
            elif action.ref is None:
                self._ask(ShadowWish(slot=slot, ref=None))
            else:
                directory = str(self._store.version_directory(action.ref))
                wish = ShadowWish(slot=slot, ref=action.ref, bundle_dir=directory, max_cpu_share=action.max_cpu_share)
                self._ask(wish)


def _besides_sums(report: ShadowReport | None) -> object:
    return None if report is None else (report.ref, report.state, report.error)


def _note(slot: str, state: SlotShadow) -> None:
    name = "nobody" if state.wanted is None else f"release {state.wanted.release}"
    why = "" if state.error is None else f": {state.error.detail}"
    _LOG.info("slot %s: in its shadow %s: %s%s", slot, name, state.phase.value, why)
