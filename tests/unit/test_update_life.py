"""Any order of wishes, faults and kills: the vehicle always has a version that runs, and ends where it should.

Two slots, which go by themselves or together. The machine, the rules over both and the pure states of the store are
the real ones; the disk, the worker and drive are a small model.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roadloop_agent.update import events as ev
from roadloop_agent.update import state as states
from roadloop_agent.update.conditions import Facts
from roadloop_agent.update.group import Action, InSlot, advance, group_of
from roadloop_agent.update.phases import ENDED, Phase, SlotUpdate, recovered
from roadloop_agent.update.state import Ended, Outcome, SlotState, same_release
from roadloop_models.contract.messages import Desired, ErrorInfo, Policy, ReleaseRef, SwitchWhen
from roadloop_models.errors import ConflictError

TASKS = {"sign": "traffic-sign", "speed": "traffic-speed"}
FULL = ErrorInfo(code="disk-full", detail="no room")
BAD = ErrorInfo(code="golden-mismatch", detail="off")


def ref(slot: str, release: int) -> ReleaseRef:
    return ReleaseRef(task=TASKS[slot], release=release, version=f"v{release}", manifest_sha256=f"{release:064x}")


@dataclass(frozen=True)
class Sample:
    ref: ReleaseRef | None
    decisions: int
    errors: int
    latency_mean_us: float = 100.0
    confidence_mean: float | None = None
    idle: bool = False


SLOTS = st.sampled_from(sorted(TASKS))
RELEASES = st.integers(1, 4)
UNLOADABLE = 3
"""Drive cannot load this release, though it passed its self-test."""
UNHEALTHY = 4


class Life(RuleBasedStateMachine):
    """Two slots of one vehicle."""

    @initialize()
    def provision(self) -> None:
        self.now_s = 0.0
        self.stored = {slot: SlotState(confirmed=ref(slot, 1)) for slot in TASKS}
        self.installed = {(slot, 1) for slot in TASKS}
        self.running = dict.fromkeys(TASKS, 1)
        self.version = 0
        self.full = False
        self.parked = False
        self.last: Desired | None = None
        self.together: tuple[str, ...] = ()
        """The slots that the last wish changes together, where nothing was on trial when it came."""
        self.pending: list[tuple[str, ev.Fetch | ev.Test | ev.Install]] = []
        self.to_drive: list[tuple[str, ReleaseRef]] = []
        self.begin()

    def begin(self) -> None:
        self.states: dict[str, SlotUpdate] = {
            slot: recovered(TASKS[slot], self.stored[slot], self.version) for slot in TASKS
        }
        for slot in TASKS:
            self.feed(slot, ev.DriveStarted(ref(slot, self.running[slot]), self.stored[slot]))

    def feed(self, slot: str, *events: ev.Event) -> None:
        queue: deque[tuple[str, ev.Event]] = deque((slot, event) for event in events)
        while queue:
            facts = Facts(parked=self.parked)
            self.states, actions = advance(self.states, *queue.popleft(), facts, self.now_s)
            for action in actions:
                queue.extend(self.perform(action))

    def perform(self, action: Action) -> list[tuple[str, ev.Event]]:
        if isinstance(action, InSlot):
            slot, inner = action.slot, action.action
            if isinstance(inner, ev.Switch):
                self.to_drive.append((slot, inner.ref))
            elif isinstance(inner, ev.RecordRefused):
                outcome = Outcome(ref=inner.ref, result="refused", error=inner.error)
                self.stored[slot] = states.record(self.stored[slot], outcome)
            else:
                self.pending.append((slot, inner))
            return []
        if isinstance(action, ev.RememberReady):
            if not self.full:
                self.stored[action.slot] = msgspec.structs.replace(self.stored[action.slot], ready=action.ready)
            return []
        return self.store(action)

    def store(self, action: ev.BeginTrials | ev.Confirm | ev.TakeBack) -> list[tuple[str, ev.Event]]:
        if isinstance(action, ev.BeginTrials):
            names = list(action.trials)
        else:
            names = list(action.refs if isinstance(action, ev.Confirm) else action.ended)
        attempts = {slot: self.states[slot].attempt for slot in names}
        if self.full:
            return [(slot, ev.Failed(attempts[slot], FULL)) for slot in names]
        try:
            if isinstance(action, ev.BeginTrials):
                for slot, trial in action.trials.items():
                    assert (slot, trial.ref.release) in self.installed, "only what is installed goes on trial"
                self.stored = states.begin_trials(self.stored, action.trials)
                return [(slot, ev.TrialBegun(attempts[slot])) for slot in names]
            if isinstance(action, ev.Confirm):
                self.stored = states.confirm(self.stored, action.refs)
            else:
                self.stored = states.take_back(self.stored, action.ended)
        except ConflictError:
            assert isinstance(action, ev.Confirm), "the machine asks only for what the store can do"
        return [(slot, ev.Stored(attempts[slot], self.stored[slot])) for slot in names]

    def collect_garbage(self) -> None:
        wanted = {(slot, known.release) for slot in TASKS for known in self.stored[slot].kept}
        for slot, state in self.states.items():
            if state.phase not in ENDED and state.target is not None:
                wanted.add((slot, state.target.release))
        self.installed &= wanted

    # What happens.

    @rule(sign=RELEASES, speed=RELEASES, together=st.booleans(), parked=st.booleans())
    def desired(self, sign: int, speed: int, together: bool, parked: bool) -> None:
        self.version += 1
        policy = Policy(health_window_s=10.0, max_error_rate=0.1, switch_when=SwitchWhen(parked=parked))
        refs = {"sign": ref("sign", sign), "speed": ref("speed", speed)}
        self.last = Desired(version=self.version, slots=refs, policy=policy, together=together)
        untried = all(state.phase in ENDED for state in self.states.values())
        self.together = group_of(self.last, self.states) if untried else ()
        self.hear()

    def hear(self) -> None:
        assert self.last is not None
        group = group_of(self.last, self.states)
        for slot, wanted in self.last.slots.items():
            event = ev.Desired(wanted, self.last.policy, self.last.version, group if slot in group else ())
            self.feed(slot, event)

    @precondition(lambda self: self.last is not None)
    @rule()
    def desired_again(self) -> None:
        self.hear()

    @rule(sign=RELEASES, speed=RELEASES, together=st.sampled_from([True, True, False]), switched=st.booleans())
    def desired_and_prepared(self, sign: int, speed: int, together: bool, switched: bool) -> None:
        """The usual way to a trial, which random steps alone seldom find."""
        self.full = False
        self.desired(sign, speed, together, parked=False)
        while self.pending:
            self.job_ends("ok")
        while switched and self.to_drive:
            self.drive_reads(True)

    @precondition(lambda self: self.pending)
    @rule(outcome=st.sampled_from(["ok", "ok", "ok", "failed", "refused", "untrusted"]))
    def job_ends(self, outcome: str) -> None:
        slot, action = self.pending.pop(0)
        if action.attempt != self.states[slot].attempt:
            return
        if isinstance(action, ev.Fetch):
            self.collect_garbage()
        if outcome == "failed" or self.full:
            self.feed(slot, ev.Failed(action.attempt, FULL))
        elif outcome in ("refused", "untrusted"):
            self.feed(slot, ev.Refused(action.attempt, BAD, final=outcome == "refused"))
        elif isinstance(action, ev.Fetch):
            self.feed(slot, ev.Progress(action.attempt, 1, 2), ev.FetchDone(action.attempt))
        elif isinstance(action, ev.Test):
            self.feed(slot, ev.TestPassed(action.attempt))
        else:
            self.installed.add((slot, action.ref.release))
            self.feed(slot, ev.Installed(action.attempt))

    @precondition(lambda self: self.to_drive)
    @rule(heard=st.booleans())
    def drive_reads(self, heard: bool) -> None:
        slot, asked = self.to_drive.pop(0)
        if not heard:
            return
        if asked.release == UNLOADABLE or (slot, asked.release) not in self.installed:
            self.feed(slot, ev.Switched(asked, ok=False, error=BAD))
        else:
            self.running[slot] = asked.release
            self.feed(slot, ev.Switched(asked, ok=True))

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for slot in TASKS:
            self.feed(slot, ev.Tick())

    @rule()
    def it_parks_or_leaves(self) -> None:
        self.parked = not self.parked

    @rule(slot=SLOTS)
    def drive_decides(self, slot: str) -> None:
        bad = self.running[slot] == UNHEALTHY
        sample = Sample(ref(slot, self.running[slot]), decisions=0 if bad else 30, errors=30 if bad else 0)
        self.feed(slot, ev.Health(sample))

    @rule()
    def drive_is_killed(self) -> None:
        self.to_drive.clear()
        for slot in [*TASKS, *TASKS]:  # the second time round: who was to start together with one that could not
            if not self.full:
                if self.stored[slot].trial is not None:
                    self.stored = states.spend_try(self.stored, slot)
                trial = self.stored[slot].trial
                if trial is not None and trial.release == UNLOADABLE:
                    self.stored = states.take_back(self.stored, {slot: Ended(trial, BAD)})
                started = self.stored[slot].trial or self.stored[slot].confirmed
            else:
                started = self.stored[slot].confirmed
            assert (slot, started.release) in self.installed
            self.running[slot] = started.release
        self.no_group_runs_in_part()
        for slot in TASKS:
            self.feed(slot, ev.DriveStarted(ref(slot, self.running[slot]), self.stored[slot]))

    @precondition(lambda self: any(state.group for state in self.stored.values()))
    @rule()
    def drive_is_killed_with_a_group_on_trial(self) -> None:
        """What random steps alone seldom find."""
        self.drive_is_killed()

    def no_group_runs_in_part(self) -> None:
        for state in self.stored.values():
            on_trial = {
                same_release(ref(member, self.running[member]), self.stored[member].trial) for member in state.group
            }
            assert len(on_trial) <= 1, "after a start all of a group run what is on trial, or none does"

    @rule(heard=st.booleans())
    def link_is_killed(self, heard: bool) -> None:
        self.pending.clear()
        self.begin()
        if self.last is not None and heard:
            self.hear()

    @rule()
    def disk_changes(self) -> None:
        self.full = not self.full

    # What always holds.

    @invariant()
    def what_a_start_would_run_is_installed(self) -> None:
        for slot, state in self.stored.items():
            for known in state.kept:
                assert (slot, known.release) in self.installed, "the store names only what is installed"
            assert state.confirmed.release not in (UNLOADABLE, UNHEALTHY)

    @invariant()
    def what_goes_together_is_on_trial_together(self) -> None:
        for state in self.stored.values():
            for member in state.group:
                assert self.stored[member].trial is not None and self.stored[member].group == state.group

    @invariant()
    def what_was_wished_together_came_together_or_not_at_all(self) -> None:
        if self.together and self.last is not None:
            kept = {same_release(self.stored[slot].confirmed, self.last.slots[slot]) for slot in self.together}
            assert len(kept) == 1

    @invariant()
    def an_outcome_is_never_on_trial_or_under_way(self) -> None:
        for slot, state in self.states.items():
            if state.target is not None and state.phase not in (*ENDED, Phase.TAKING_BACK, Phase.RETURNING):
                assert states.outcome_of(self.stored[slot].outcomes, state.target) is None

    def teardown(self) -> None:
        """Once the faults end, the vehicle runs what is wanted, or says why not and runs what is confirmed."""
        if not hasattr(self, "states"):
            return
        self.full, self.parked = False, True
        for _ in range(60):
            while self.pending:
                self.job_ends("ok")
            while self.to_drive:
                self.drive_reads(True)
            for slot in TASKS:
                self.drive_decides(slot)
            self.time_passes(11.0)
            if any(state.phase is Phase.WAITING for state in self.states.values()):
                self.time_passes(400.0)
        for slot, state in self.states.items():
            self.has_ended(slot, state)

    def has_ended(self, slot: str, state: SlotUpdate) -> None:
        if state.phase is Phase.READY:
            # Link was killed, and the cloud has not said again what the companion is to run.
            assert "slot" in state.waits_for and any(other.wanted is None for other in self.states.values())
            return
        assert state.phase in ENDED and self.stored[slot].trial is None
        assert self.running[slot] == self.stored[slot].confirmed.release
        wanted = state.wanted
        if wanted is not None and state.phase is Phase.IDLE:
            assert same_release(wanted.ref, self.stored[slot].confirmed)
        if state.phase in (Phase.REFUSED, Phase.ROLLED_BACK):
            assert state.error is not None
            assert wanted is None or same_release(state.target, wanted.ref)


Life.TestCase.settings = settings(stateful_step_count=40)
TestLife = Life.TestCase
