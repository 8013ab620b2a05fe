"""Any order of wishes, faults and kills: the vehicle always has a version that runs, and ends where it should.

The machine and the pure states of the store are the real ones; the disk, the worker and drive are a small model.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roadloop_agent.update import events as ev
from roadloop_agent.update import state as states
from roadloop_agent.update.machine import ENDED, Phase, SlotUpdate, recovered, step
from roadloop_agent.update.state import Outcome, SlotState, same_release
from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef
from roadloop_models.errors import ConflictError

TASK = "traffic-sign"
POLICY = Policy(health_window_s=10.0, max_error_rate=0.1)
FULL = ErrorInfo(code="disk-full", detail="no room")
BAD = ErrorInfo(code="golden-mismatch", detail="off")


def ref(release: int) -> ReleaseRef:
    return ReleaseRef(task=TASK, release=release, version=f"v{release}", manifest_sha256=f"{release:064x}")


@dataclass(frozen=True)
class Sample:
    ref: ReleaseRef | None
    decisions: int
    errors: int
    latency_mean_us: float = 100.0
    confidence_mean: float | None = None
    idle: bool = False


RELEASES = st.integers(1, 4)
UNLOADABLE = 3
"""Drive cannot load this release, though it passed its self-test."""
UNHEALTHY = 4


class Life(RuleBasedStateMachine):
    """One slot of one vehicle."""

    @initialize()
    def provision(self) -> None:
        self.now_s = 0.0
        self.stored = SlotState(confirmed=ref(1))
        self.installed = {1}
        self.running = 1
        self.version = 0
        self.full = False
        self.pending: list[ev.Fetch | ev.Test | ev.Install] = []
        self.to_drive: list[ReleaseRef] = []
        self.state: SlotUpdate = recovered(TASK, self.stored)
        self.feed(ev.DriveStarted(ref(1), self.stored))

    def feed(self, *events: ev.Event) -> None:
        queue = list(events)
        while queue:
            self.state, actions = step(self.state, queue.pop(0), self.now_s)
            for action in actions:
                answer = self.perform(action)
                if answer is not None:
                    queue.append(answer)

    def perform(self, action: ev.Action) -> ev.Event | None:
        if isinstance(action, ev.Switch):
            self.to_drive.append(action.ref)
        elif isinstance(action, ev.RecordRefused):
            self.stored = states.record(self.stored, Outcome(ref=action.ref, result="refused", error=action.error))
        elif isinstance(action, ev.BeginTrial | ev.Confirm | ev.TakeBack):
            return self.store(action)
        else:
            self.pending.append(action)
        return None

    def store(self, action: ev.BeginTrial | ev.Confirm | ev.TakeBack) -> ev.Event:
        if self.full:
            return ev.Failed(action.attempt, FULL)
        try:
            if isinstance(action, ev.BeginTrial):
                assert action.ref.release in self.installed, "only what is installed goes on trial"
                self.stored = states.begin_trial(self.stored, action.ref, action.policy)
                return ev.TrialBegun(action.attempt)
            if isinstance(action, ev.Confirm):
                self.stored = states.confirm(self.stored, action.ref)
            else:
                self.stored = states.take_back(self.stored, action.ref, action.error)
        except ConflictError:
            assert isinstance(action, ev.Confirm), "the machine asks only for what the store can do"
        return ev.Stored(action.attempt, self.stored)

    def collect_garbage(self) -> None:
        wanted = {known.release for known in self.stored.refs}
        if self.state.phase not in ENDED and self.state.target is not None:
            wanted.add(self.state.target.release)
        self.installed &= wanted

    # What happens.

    @rule(release=RELEASES)
    def desired(self, release: int) -> None:
        self.version += 1
        self.feed(ev.Desired(ref(release), POLICY, self.version))

    @rule()
    def desired_again(self) -> None:
        if self.state.wanted is not None:
            self.feed(self.state.wanted)

    @rule(release=RELEASES, switched=st.booleans())
    def desired_and_prepared(self, release: int, switched: bool) -> None:
        """The usual way to a trial, which random steps alone seldom find."""
        self.full = False
        self.desired(release)
        while self.pending:
            self.job_ends("ok")
        while switched and self.to_drive:
            self.drive_reads(True)

    @precondition(lambda self: self.pending)
    @rule(outcome=st.sampled_from(["ok", "ok", "ok", "failed", "refused", "untrusted"]))
    def job_ends(self, outcome: str) -> None:
        action = self.pending.pop(0)
        if action.attempt != self.state.attempt:
            return
        if isinstance(action, ev.Fetch):
            self.collect_garbage()
        if outcome == "failed" or self.full:
            self.feed(ev.Failed(action.attempt, FULL))
        elif outcome in ("refused", "untrusted"):
            self.feed(ev.Refused(action.attempt, BAD, final=outcome == "refused"))
        elif isinstance(action, ev.Fetch):
            self.feed(ev.Progress(action.attempt, 1, 2), ev.FetchDone(action.attempt))
        elif isinstance(action, ev.Test):
            self.feed(ev.TestPassed(action.attempt))
        else:
            self.installed.add(action.ref.release)
            self.feed(ev.Installed(action.attempt))

    @precondition(lambda self: self.to_drive)
    @rule(heard=st.booleans())
    def drive_reads(self, heard: bool) -> None:
        asked = self.to_drive.pop(0)
        if not heard:
            return
        if asked.release == UNLOADABLE or asked.release not in self.installed:
            self.feed(ev.Switched(asked, ok=False, error=BAD))
        else:
            self.running = asked.release
            self.feed(ev.Switched(asked, ok=True))

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.feed(ev.Tick())

    @rule()
    def drive_decides(self) -> None:
        bad = self.running == UNHEALTHY
        self.feed(ev.Health(Sample(ref(self.running), decisions=0 if bad else 30, errors=30 if bad else 0)))

    @rule()
    def drive_is_killed(self) -> None:
        self.to_drive.clear()
        if not self.full:
            self.stored = states.spend_try(self.stored)
            if self.stored.trial is not None and self.stored.trial.release == UNLOADABLE:
                self.stored = states.take_back(self.stored, self.stored.trial, BAD)
            started = self.stored.trial or self.stored.confirmed
        else:
            started = self.stored.confirmed
        assert started.release in self.installed
        self.running = started.release
        self.feed(ev.DriveStarted(started, self.stored))

    @rule(heard=st.booleans())
    def link_is_killed(self, heard: bool) -> None:
        self.pending.clear()
        wanted = self.state.wanted
        self.state = recovered(TASK, self.stored)
        self.feed(ev.DriveStarted(ref(self.running), self.stored))
        if wanted is not None and heard:
            self.feed(wanted)

    @rule()
    def disk_changes(self) -> None:
        self.full = not self.full

    # What always holds.

    @invariant()
    def what_a_start_would_run_is_installed(self) -> None:
        for known in self.stored.refs:
            assert known.release in self.installed, "the store names only what is installed"
        assert self.stored.confirmed.release not in (UNLOADABLE, UNHEALTHY)

    @invariant()
    def an_outcome_is_never_on_trial_or_under_way(self) -> None:
        if self.state.target is not None and self.state.phase not in (*ENDED, Phase.TAKING_BACK, Phase.RETURNING):
            assert states.outcome_of(self.stored.outcomes, self.state.target) is None

    def teardown(self) -> None:
        """Once the faults end, the vehicle runs what is wanted, or says why not and runs what is confirmed."""
        if not hasattr(self, "state"):
            return
        self.full = False
        for _ in range(60):
            while self.pending:
                self.job_ends("ok")
            while self.to_drive:
                self.drive_reads(True)
            self.drive_decides()
            self.time_passes(11.0)
            if self.state.phase is Phase.WAITING:
                self.time_passes(400.0)
        assert self.state.phase in ENDED and self.stored.trial is None
        assert self.running == self.stored.confirmed.release
        wanted = self.state.wanted
        if wanted is not None and self.state.phase is Phase.IDLE:
            assert same_release(wanted.ref, self.stored.confirmed)
        if self.state.phase in (Phase.REFUSED, Phase.ROLLED_BACK):
            assert self.state.error is not None
            assert wanted is None or same_release(self.state.target, wanted.ref)


Life.TestCase.settings = settings(stateful_step_count=40)
TestLife = Life.TestCase
