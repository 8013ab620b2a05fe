"""Handlers of the update machine up to the moment at which a release is ready: nothing that runs is touched here."""

from dataclasses import replace

from roadloop_agent.update.events import (
    CompanionFailed,
    Desired,
    Failed,
    Fetch,
    FetchDone,
    Install,
    Installed,
    Progress,
    RecordRefused,
    Refused,
    Start,
    Test,
    TestPassed,
    Tick,
    Waits,
)
from roadloop_agent.update.phases import Phase, SlotUpdate, Step
from roadloop_agent.update.state import Outcome, outcome_of, same_release
from roadloop_models.contract.messages import ErrorInfo
from roadloop_models.errors import CompanionError, TrustError

BACKOFF_FIRST_S = 2.0
BACKOFF_MAX_S = 300.0


# A wish.


def pursue(state: SlotUpdate) -> Step:
    """Begin what is wanted, or say why not. Only where nothing is on trial."""
    cleared = replace(
        state,
        target=None,
        group=(),
        waits_for="",
        error=None,
        window=None,
        failures=0,
        tries=0,
        blocks_done=0,
        blocks_total=0,
        due_s=0.0,
    )
    wanted = state.wanted
    if wanted is None or same_release(wanted.ref, state.confirmed):
        return replace(cleared, phase=Phase.IDLE, attempt=state.attempt + 1), ()
    cleared = replace(cleared, target=wanted.ref, policy=wanted.policy, attempt=state.attempt + 1)
    if wanted.ref.task != state.task:
        detail = f"release {wanted.ref.release} is for {wanted.ref.task}, the slot runs {state.task}"
        return replace(cleared, phase=Phase.REFUSED, error=ErrorInfo(code=TrustError.code, detail=detail)), ()
    outcome = outcome_of(state.outcomes, wanted.ref)
    if outcome is not None:
        phase = Phase.ROLLED_BACK if outcome.result == "rolled-back" else Phase.REFUSED
        return replace(cleared, phase=phase, error=outcome.error), ()
    return _fetch(cleared)


def _fetch(state: SlotUpdate) -> Step:
    assert state.target is not None
    fetching = replace(state, phase=Phase.FETCHING, error=None)
    return fetching, (Fetch(state.attempt, state.target, state.policy),)


def desired_when_ended(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    """The same once more changes nothing; anything else is begun."""
    same = same_release(event.ref, state.target) and state.wanted is not None and event.version == state.wanted.version
    wanting = replace(state, wanted=event)
    return (wanting, ()) if same and state.phase is not Phase.IDLE else pursue(wanting)


def desired_when_waiting(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    """The cloud's word has just arrived, so there is a connection: what the wait was for may be over."""
    wanting = replace(state, wanted=event)
    if not same_release(event.ref, state.target):
        return pursue(wanting)
    return _fetch(replace(wanting, attempt=state.attempt + 1, policy=event.policy))


def desired_when_preparing(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    """The work under way goes on where it is still wanted."""
    wanting = replace(state, wanted=event)
    if same_release(event.ref, state.target):
        return replace(wanting, policy=event.policy), ()
    return pursue(wanting)


def desired_later(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    """What is under way comes first."""
    return replace(state, wanted=event), ()


# Preparing.


def progress(state: SlotUpdate, event: Progress, now_s: float) -> Step:
    """For the report."""
    return replace(state, blocks_done=event.done, blocks_total=event.total), ()


def fetch_done(state: SlotUpdate, event: FetchDone, now_s: float) -> Step:
    """Staged: test it."""
    assert state.target is not None
    staged = replace(state, phase=Phase.TESTING, blocks_done=state.blocks_total)
    return staged, (Test(state.attempt, state.target, state.confirmed, state.policy.max_latency_ratio),)


def test_passed(state: SlotUpdate, event: TestPassed, now_s: float) -> Step:
    """Sound: install it."""
    assert state.target is not None
    return replace(state, phase=Phase.INSTALLING), (Install(state.attempt, state.target),)


def installed(state: SlotUpdate, event: Installed, now_s: float) -> Step:
    """Ready, until group.py says that nothing is waited for."""
    return replace(state, phase=Phase.READY), ()


def failed(state: SlotUpdate, event: Failed, now_s: float) -> Step:
    """Try again later, each time after a longer wait."""
    wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(state.failures, 16)) * (0.5 + 0.5 * event.jitter)
    waiting = replace(
        state, phase=Phase.WAITING, group=(), error=event.error, failures=state.failures + 1, due_s=now_s + wait_s
    )
    return waiting, ()


def waited(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    """Again from the start; what is here already is not fetched again."""
    return (state, ()) if now_s < state.due_s else _fetch(replace(state, attempt=state.attempt + 1))


def refused(state: SlotUpdate, event: Refused, now_s: float) -> Step:
    """Not here, and not again where the release itself is at fault."""
    assert state.target is not None
    ended = replace(state, phase=Phase.REFUSED, waits_for="", error=event.error)
    if not event.final:
        return ended, ()
    outcome = Outcome(ref=state.target, result="refused", error=event.error)
    return replace(ended, outcomes=(*state.outcomes, outcome)), (RecordRefused(state.target, event.error),)


def companion_failed(state: SlotUpdate, event: CompanionFailed, now_s: float) -> Step:
    """It goes together with another one that does not go; what is under way is given up."""
    error = companion_error(event)
    return replace(state, phase=Phase.REFUSED, waits_for="", error=error, attempt=state.attempt + 1), ()


def companion_error(event: CompanionFailed) -> ErrorInfo:
    """What is reported of a release that is not at fault itself."""
    why = "" if event.error is None else f": {event.error.code}: {event.error.detail}"
    return ErrorInfo(code=CompanionError.code, detail=f"together with slot {event.slot}, which failed{why}"[:500])


# Ready.


def waits(state: SlotUpdate, event: Waits, now_s: float) -> Step:
    """For the report."""
    return replace(state, waits_for=event.what), ()


def start(state: SlotUpdate, event: Start, now_s: float) -> Step:
    """The store is being told; from here on the trial ends before anything else begins."""
    return replace(state, phase=Phase.STARTING, group=event.group, waits_for=""), ()
