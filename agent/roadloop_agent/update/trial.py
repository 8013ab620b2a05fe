"""Handlers of the update machine while a release is on trial, and for a drive (or link) that was started again."""

from dataclasses import replace

from roadloop_agent.update import health
from roadloop_agent.update.events import (
    CompanionFailed,
    Desired,
    DriveStarted,
    Failed,
    Health,
    Keep,
    SlotAction,
    Stored,
    Switch,
    Switched,
    Tick,
    TrialBegun,
)
from roadloop_agent.update.health import Baseline, Verdict, Window
from roadloop_agent.update.phases import Phase, SlotUpdate, Step
from roadloop_agent.update.preparing import companion_error, pursue
from roadloop_agent.update.state import outcome_of, same_release
from roadloop_models.contract.messages import ErrorInfo
from roadloop_models.errors import FailedError

SWITCH_TIMEOUT_S = 10.0
SWITCH_TIMES = 6
"""How often drive is asked to switch before the trial is given up."""
STORE_RETRY_S = 5.0


# Switching.


def trial_begun(state: SlotUpdate, event: TrialBegun, now_s: float) -> Step:
    """The store has it: drive may be told."""
    return _switch(replace(state, tries=0), now_s)


def _switch(state: SlotUpdate, now_s: float) -> Step:
    assert state.target is not None
    due_s = now_s + SWITCH_TIMEOUT_S
    asked = replace(state, phase=Phase.SWITCHING, tries=state.tries + 1, due_s=due_s, unanswered=True)
    return asked, (Switch(state.target),)


def switch_again(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    """Drive does not answer."""
    if now_s < state.due_s:
        return state, ()
    if state.tries < SWITCH_TIMES:
        return _switch(state, now_s)
    detail = f"drive did not answer {state.tries} requests to switch"
    return _take_back(state, ErrorInfo(code=FailedError.code, detail=detail), now_s)


def switched(state: SlotUpdate, event: Switched, now_s: float) -> Step:
    """Drive runs it, or cannot."""
    if not same_release(event.ref, state.target):
        return switched_else(state, event, now_s)
    answered = replace(state, unanswered=False)
    if not event.ok:
        error = event.error or ErrorInfo(code=FailedError.code, detail="drive could not switch to the release")
        return _take_back(answered, error, now_s)
    return _watch(replace(answered, running=event.ref), now_s), ()


def switched_else(state: SlotUpdate, event: Switched, now_s: float) -> Step:
    """What drive says that it runs, whoever asked for it."""
    return (replace(state, running=event.ref, unanswered=False) if event.ok else state), ()


# The health window.


def _watch(state: SlotUpdate, now_s: float) -> SlotUpdate:
    window = Window(
        now_s, state.policy.health_window_s, state.policy.max_error_rate, state.policy.max_latency_ratio, state.baseline
    )
    return replace(state, phase=Phase.WATCHING, window=window, error=None)


def learn(state: SlotUpdate, event: Health, now_s: float) -> Step:
    """How the incumbent does, while it runs."""
    if not same_release(event.sample.ref, state.confirmed):
        return state, ()
    return replace(state, baseline=health.learn(state.baseline, event.sample)), ()


def observe(state: SlotUpdate, event: Health, now_s: float) -> Step:
    """How the release does; one that has passed its window can still fail while it waits for others."""
    assert state.window is not None
    if not same_release(event.sample.ref, state.target):
        return state, ()
    return _judge(replace(state, window=health.observe(state.window, event.sample)), now_s)


def window_tick(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    """The window may have ended."""
    return _judge(state, now_s)


def _judge(state: SlotUpdate, now_s: float) -> Step:
    assert state.window is not None
    verdict, error = health.judge(state.window, now_s)
    if verdict is Verdict.TAKE_BACK:
        return _take_back(state, error, now_s)
    return (replace(state, phase=Phase.PASSED) if verdict is Verdict.KEEP else state), ()


# The end of a trial. The store is told by group.py, at `due_s` and for all that are on trial together.


def desired_on_trial(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    """A newer wish waits, unless the cloud has given the release up: going back needs no proof."""
    wanting = replace(state, wanted=event)
    return _take_back(wanting, None, now_s) if same_release(event.ref, state.confirmed) else (wanting, ())


def companion_failed_on_trial(state: SlotUpdate, event: CompanionFailed, now_s: float) -> Step:
    """All of them go back."""
    return _take_back(state, None if event.error is None else companion_error(event), now_s)


def _take_back(state: SlotUpdate, error: ErrorInfo | None, now_s: float) -> Step:
    """Drive is switched even where the store cannot be written: a bad version must not drive on for want of a disk."""
    taking = replace(state, phase=Phase.TAKING_BACK, error=error, window=None, tries=0, due_s=now_s)
    return taking, (Switch(state.confirmed),)


def keep(state: SlotUpdate, event: Keep, now_s: float) -> Step:
    """All have passed."""
    return replace(state, phase=Phase.CONFIRMING, due_s=now_s), ()


def store_failed(state: SlotUpdate, event: Failed, now_s: float) -> Step:
    """The store could not be written."""
    return replace(state, due_s=now_s + STORE_RETRY_S), ()


def stored(state: SlotUpdate, event: Stored, now_s: float) -> Step:
    """What the store says now."""
    known = replace(state, confirmed=event.stored.confirmed, outcomes=event.stored.outcomes)
    return _trial_ended(known, now_s) if event.stored.trial is None else (known, ())


def _trial_ended(state: SlotUpdate, now_s: float) -> Step:
    """The store has nothing on trial any more: kept, or taken back by us or by drive."""
    assert state.target is not None
    if same_release(state.confirmed, state.target):
        return pursue(replace(state, baseline=Baseline()))
    outcome = outcome_of(state.outcomes, state.target)
    ended = replace(state, group=(), error=outcome.error if outcome else state.error, window=None)
    # While a request to switch is unanswered, drive may yet obey it: what it runs is what it says from now on.
    if same_release(state.running, state.confirmed) and not state.unanswered:
        return _returned(ended)
    return replace(ended, phase=Phase.RETURNING, due_s=now_s + SWITCH_TIMEOUT_S), (Switch(state.confirmed),)


def switched_back(state: SlotUpdate, event: Switched, now_s: float) -> Step:
    """Drive runs what is confirmed, or not yet."""
    if not event.ok:
        return state, ()
    known = replace(state, running=event.ref, unanswered=False)
    return _returned(known) if same_release(event.ref, state.confirmed) else (known, ())


def switch_back_again(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    """Ask until it does."""
    if now_s < state.due_s:
        return state, ()
    return replace(state, due_s=now_s + SWITCH_TIMEOUT_S), (Switch(state.confirmed),)


def remind(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    """Nothing is on trial and drive runs something else: what asked it to return was lost on the way."""
    if state.running is None or same_release(state.running, state.confirmed) or now_s < state.due_s:
        return state, ()
    return replace(state, due_s=now_s + SWITCH_TIMEOUT_S), (Switch(state.confirmed),)


def _returned(state: SlotUpdate) -> Step:
    wanted = state.wanted
    if state.error is not None and (wanted is None or same_release(wanted.ref, state.target)):
        return replace(state, phase=Phase.ROLLED_BACK), ()
    return pursue(state)


# Drive (or link) was started again.


def drive_started(state: SlotUpdate, event: DriveStarted, now_s: float) -> Step:
    """Nothing is on trial. The store may have fallen back to another version, or drive may run one taken back."""
    moved = not same_release(state.confirmed, event.stored.confirmed)
    known = _known(state, event)
    actions: tuple[SlotAction, ...] = ()
    if event.stored.trial is None and not same_release(event.running, event.stored.confirmed):
        actions = (Switch(event.stored.confirmed),)
    if moved and known.phase is Phase.IDLE and known.wanted is not None:
        known, more = pursue(known)
        return known, (*actions, *more)
    return known, actions


def drive_started_on_trial(state: SlotUpdate, event: DriveStarted, now_s: float) -> Step:
    """The trial goes on in a new window, or drive has ended it."""
    known = _known(state, event)
    if not same_release(event.stored.trial, state.target):
        return _trial_ended(known, now_s)
    if known.phase is Phase.TAKING_BACK:
        return known, (Switch(event.stored.confirmed),)
    if not same_release(event.running, state.target):
        return _switch(replace(known, tries=0), now_s)
    return (known, ()) if known.phase is Phase.CONFIRMING else (_watch(known, now_s), ())


def drive_started_returning(state: SlotUpdate, event: DriveStarted, now_s: float) -> Step:
    """It began with what the store says."""
    known = _known(state, event)
    if same_release(event.running, known.confirmed):
        return _returned(known)
    return replace(known, due_s=now_s + SWITCH_TIMEOUT_S), (Switch(known.confirmed),)


def _known(state: SlotUpdate, event: DriveStarted) -> SlotUpdate:
    stored = event.stored
    return replace(state, running=event.running, confirmed=stored.confirmed, outcomes=stored.outcomes, unanswered=False)
