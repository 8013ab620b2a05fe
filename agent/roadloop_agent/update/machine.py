"""The update of one slot as a pure function: (state, event, now) -> (state, actions).

    idle -> fetching -> testing -> installing -> starting -> switching -> watching -> confirming -> idle
                 |          |           |                        |            |
              waiting    refused     refused                  taking-back <---+  -> returning -> rolled-back

Until `starting` nothing that runs is touched, so a newer wish simply replaces the work under way. From then on the
store has the release on trial, and the trial ends before anything else begins. What happens is decided by one table,
(phase, event) -> handler; a pair that is not in it changes nothing. Reporting is not in it at all: a report that fails
can change nothing that is installed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from roadloop_agent.update import health
from roadloop_agent.update.events import (
    Action,
    BeginTrial,
    Confirm,
    Desired,
    DriveStarted,
    Event,
    Failed,
    Fetch,
    FetchDone,
    Health,
    Install,
    Installed,
    Progress,
    RecordRefused,
    Refused,
    Stored,
    Switch,
    Switched,
    TakeBack,
    Test,
    TestPassed,
    Tick,
    TrialBegun,
)
from roadloop_agent.update.health import Baseline, Verdict, Window
from roadloop_agent.update.state import Outcome, SlotState, outcome_of, same_release
from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef, UpdateState
from roadloop_models.errors import FailedError, TrustError

BACKOFF_FIRST_S = 2.0
BACKOFF_MAX_S = 300.0
SWITCH_TIMEOUT_S = 10.0
SWITCH_TIMES = 6
"""How often drive is asked to switch before the trial is given up."""
STORE_RETRY_S = 5.0


class Phase(Enum):
    """Where the update of a slot is, and what is reported of it."""

    def __init__(self, name: str, reported: UpdateState) -> None:
        self.label = name
        self.reported: UpdateState = reported

    IDLE = ("idle", "idle")
    WAITING = ("waiting", "waiting")
    FETCHING = ("fetching", "fetching")
    TESTING = ("testing", "testing")
    INSTALLING = ("installing", "installing")
    STARTING = ("starting", "installing")
    SWITCHING = ("switching", "trial")
    WATCHING = ("watching", "trial")
    CONFIRMING = ("confirming", "trial")
    TAKING_BACK = ("taking-back", "trial")
    RETURNING = ("returning", "trial")
    ROLLED_BACK = ("rolled-back", "rolled-back")
    REFUSED = ("refused", "refused")


ENDED = (Phase.IDLE, Phase.ROLLED_BACK, Phase.REFUSED)
PREPARING = (Phase.FETCHING, Phase.TESTING, Phase.INSTALLING)
ON_TRIAL = (Phase.SWITCHING, Phase.WATCHING, Phase.CONFIRMING, Phase.TAKING_BACK)


@dataclass(frozen=True)
class SlotUpdate:
    """The state of one slot's update.

    `wanted` is the level that the cloud set last; `target` is what the phase is about. `due_s` (monotonic) is when
    `waiting` ends or an unanswered action is repeated, `tries` how often it was. `unanswered`: drive was asked to
    switch to the target and has not said anything since; a request stays in the pipe, so drive may yet obey it.
    """

    task: str
    confirmed: ReleaseRef
    phase: Phase = Phase.IDLE
    running: ReleaseRef | None = None
    wanted: Desired | None = None
    target: ReleaseRef | None = None
    policy: Policy = field(default_factory=Policy)
    error: ErrorInfo | None = None
    attempt: int = 0
    failures: int = 0
    tries: int = 0
    unanswered: bool = False
    due_s: float = 0.0
    blocks_done: int = 0
    blocks_total: int = 0
    baseline: Baseline = field(default_factory=Baseline)
    window: Window | None = None
    outcomes: tuple[Outcome, ...] = ()


Step: TypeAlias = tuple[SlotUpdate, tuple[Action, ...]]


def recovered(task: str, stored: SlotState) -> SlotUpdate:
    """The state to begin with after a restart: a trial goes on (drive is asked at the next tick), all else is idle."""
    state = SlotUpdate(task, stored.confirmed, outcomes=stored.outcomes)
    if stored.trial is None:
        return state
    return replace(state, phase=Phase.SWITCHING, target=stored.trial, policy=stored.policy, attempt=1)


def step(state: SlotUpdate, event: Event, now_s: float) -> Step:
    """What follows from `event` at `now_s` (monotonic)."""
    attempt = getattr(event, "attempt", None)
    if attempt is not None and attempt != state.attempt:
        return state, ()
    handler = _TABLE.get((state.phase, type(event)))
    return (state, ()) if handler is None else handler(state, event, now_s)


# A wish.


def _pursue(state: SlotUpdate) -> Step:
    """Begin what is wanted, or say why not. Only where nothing is on trial."""
    cleared = replace(
        state, target=None, error=None, window=None, failures=0, tries=0, blocks_done=0, blocks_total=0, due_s=0.0
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


def _desired_when_ended(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    same = same_release(event.ref, state.target) and state.wanted is not None and event.version == state.wanted.version
    wanting = replace(state, wanted=event)
    return (wanting, ()) if same and state.phase is not Phase.IDLE else _pursue(wanting)


def _desired_when_waiting(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    wanting = replace(state, wanted=event)
    if not same_release(event.ref, state.target):
        return _pursue(wanting)
    # The cloud's word has just arrived, so there is a connection: what the wait was for may be over.
    return _fetch(replace(wanting, attempt=state.attempt + 1, policy=event.policy))


def _desired_when_preparing(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    wanting = replace(state, wanted=event)
    if same_release(event.ref, state.target):
        return replace(wanting, policy=event.policy), ()
    return _pursue(wanting)


def _desired_on_trial(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    wanting = replace(state, wanted=event)
    if same_release(event.ref, state.confirmed):
        return _take_back(wanting, None, now_s)  # the cloud has given the release up: going back needs no proof
    return wanting, ()


def _desired_later(state: SlotUpdate, event: Desired, now_s: float) -> Step:
    return replace(state, wanted=event), ()


# Preparing.


def _progress(state: SlotUpdate, event: Progress, now_s: float) -> Step:
    return replace(state, blocks_done=event.done, blocks_total=event.total), ()


def _fetch_done(state: SlotUpdate, event: FetchDone, now_s: float) -> Step:
    assert state.target is not None
    staged = replace(state, phase=Phase.TESTING, blocks_done=state.blocks_total)
    return staged, (Test(state.attempt, state.target, state.confirmed, state.policy.max_latency_ratio),)


def _test_passed(state: SlotUpdate, event: TestPassed, now_s: float) -> Step:
    assert state.target is not None
    return replace(state, phase=Phase.INSTALLING), (Install(state.attempt, state.target),)


def _installed(state: SlotUpdate, event: Installed, now_s: float) -> Step:
    assert state.target is not None
    return replace(state, phase=Phase.STARTING), (BeginTrial(state.attempt, state.target, state.policy),)


def _failed(state: SlotUpdate, event: Failed, now_s: float) -> Step:
    wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(state.failures, 16)) * (0.5 + 0.5 * event.jitter)
    waiting = replace(state, phase=Phase.WAITING, error=event.error, failures=state.failures + 1, due_s=now_s + wait_s)
    return waiting, ()


def _waited(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    return (state, ()) if now_s < state.due_s else _fetch(replace(state, attempt=state.attempt + 1))


def _refused(state: SlotUpdate, event: Refused, now_s: float) -> Step:
    assert state.target is not None
    refused = replace(state, phase=Phase.REFUSED, error=event.error)
    if not event.final:
        return refused, ()
    outcome = Outcome(ref=state.target, result="refused", error=event.error)
    return replace(refused, outcomes=(*state.outcomes, outcome)), (RecordRefused(state.target, event.error),)


# The trial.


def _trial_begun(state: SlotUpdate, event: TrialBegun, now_s: float) -> Step:
    return _switch(replace(state, phase=Phase.SWITCHING, tries=0), now_s)


def _switch(state: SlotUpdate, now_s: float) -> Step:
    assert state.target is not None
    due_s = now_s + SWITCH_TIMEOUT_S
    asked = replace(state, phase=Phase.SWITCHING, tries=state.tries + 1, due_s=due_s, unanswered=True)
    return asked, (Switch(state.target),)


def _switch_again(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    if now_s < state.due_s:
        return state, ()
    if state.tries < SWITCH_TIMES:
        return _switch(state, now_s)
    detail = f"drive did not answer {state.tries} requests to switch"
    return _take_back(state, ErrorInfo(code=FailedError.code, detail=detail), now_s)


def _switched(state: SlotUpdate, event: Switched, now_s: float) -> Step:
    if not same_release(event.ref, state.target):
        return _switched_else(state, event, now_s)
    answered = replace(state, unanswered=False)
    if not event.ok:
        error = event.error or ErrorInfo(code=FailedError.code, detail="drive could not switch to the release")
        return _take_back(answered, error, now_s)
    return _watch(replace(answered, running=event.ref), now_s), ()


def _watch(state: SlotUpdate, now_s: float) -> SlotUpdate:
    window = Window(now_s, state.policy.health_window_s, state.policy.max_error_rate, state.baseline)
    return replace(state, phase=Phase.WATCHING, window=window, error=None)


def _switched_else(state: SlotUpdate, event: Switched, now_s: float) -> Step:
    return (replace(state, running=event.ref, unanswered=False) if event.ok else state), ()


def _learn(state: SlotUpdate, event: Health, now_s: float) -> Step:
    if not same_release(event.sample.ref, state.confirmed):
        return state, ()
    return replace(state, baseline=health.learn(state.baseline, event.sample)), ()


def _observe(state: SlotUpdate, event: Health, now_s: float) -> Step:
    assert state.window is not None
    if not same_release(event.sample.ref, state.target):
        return state, ()
    return _judge(replace(state, window=health.observe(state.window, event.sample)), now_s)


def _window_tick(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    return _judge(state, now_s)


def _judge(state: SlotUpdate, now_s: float) -> Step:
    assert state.window is not None and state.target is not None
    verdict, error = health.judge(state.window, now_s)
    if verdict is Verdict.UNDECIDED:
        return state, ()
    if verdict is Verdict.TAKE_BACK:
        return _take_back(state, error, now_s)
    return replace(state, phase=Phase.CONFIRMING), (Confirm(state.attempt, state.target),)


def _take_back(state: SlotUpdate, error: ErrorInfo | None, now_s: float) -> Step:
    """Drive is switched even where the store cannot be written: a bad version must not drive on for want of a disk."""
    assert state.target is not None
    taking = replace(state, phase=Phase.TAKING_BACK, error=error, window=None, tries=0)
    return taking, (TakeBack(state.attempt, state.target, error), Switch(state.confirmed))


def _store_failed(state: SlotUpdate, event: Failed, now_s: float) -> Step:
    return replace(state, due_s=now_s + STORE_RETRY_S), ()


def _confirm_again(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    assert state.target is not None
    if now_s < state.due_s:
        return state, ()
    return replace(state, due_s=now_s + STORE_RETRY_S), (Confirm(state.attempt, state.target),)


def _take_back_again(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    assert state.target is not None
    if now_s < state.due_s:
        return state, ()
    return replace(state, due_s=now_s + STORE_RETRY_S), (TakeBack(state.attempt, state.target, state.error),)


def _stored(state: SlotUpdate, event: Stored, now_s: float) -> Step:
    known = replace(state, confirmed=event.stored.confirmed, outcomes=event.stored.outcomes)
    return _trial_ended(known, now_s) if event.stored.trial is None else (known, ())


def _trial_ended(state: SlotUpdate, now_s: float) -> Step:
    """The store has nothing on trial any more: kept, or taken back by us or by drive."""
    assert state.target is not None
    if same_release(state.confirmed, state.target):
        return _pursue(replace(state, baseline=Baseline()))
    outcome = outcome_of(state.outcomes, state.target)
    ended = replace(state, error=outcome.error if outcome else None, window=None)
    # While a request to switch is unanswered, drive may yet obey it: what it runs is what it says from now on.
    if same_release(state.running, state.confirmed) and not state.unanswered:
        return _returned(ended)
    return replace(ended, phase=Phase.RETURNING, due_s=now_s + SWITCH_TIMEOUT_S), (Switch(state.confirmed),)


def _switched_back(state: SlotUpdate, event: Switched, now_s: float) -> Step:
    if not event.ok:
        return state, ()
    known = replace(state, running=event.ref, unanswered=False)
    return _returned(known) if same_release(event.ref, state.confirmed) else (known, ())


def _switch_back_again(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    if now_s < state.due_s:
        return state, ()
    return replace(state, due_s=now_s + SWITCH_TIMEOUT_S), (Switch(state.confirmed),)


def _remind(state: SlotUpdate, event: Tick, now_s: float) -> Step:
    """Nothing is on trial and drive runs something else: what asked it to return was lost on the way."""
    if state.running is None or same_release(state.running, state.confirmed) or now_s < state.due_s:
        return state, ()
    return replace(state, due_s=now_s + SWITCH_TIMEOUT_S), (Switch(state.confirmed),)


def _returned(state: SlotUpdate) -> Step:
    wanted = state.wanted
    if state.error is not None and (wanted is None or same_release(wanted.ref, state.target)):
        return replace(state, phase=Phase.ROLLED_BACK), ()
    return _pursue(state)


# Drive (or link) was started again.


def _drive_started(state: SlotUpdate, event: DriveStarted, now_s: float) -> Step:
    """Nothing is on trial. The store may have fallen back to another version, or drive may run one taken back."""
    stored = event.stored
    moved = not same_release(state.confirmed, stored.confirmed)
    known = replace(
        state, running=event.running, confirmed=stored.confirmed, outcomes=stored.outcomes, unanswered=False
    )
    actions: tuple[Action, ...] = ()
    if stored.trial is None and not same_release(event.running, stored.confirmed):
        actions = (Switch(stored.confirmed),)
    if moved and known.phase is Phase.IDLE and known.wanted is not None:
        known, more = _pursue(known)
        return known, (*actions, *more)
    return known, actions


def _drive_started_on_trial(state: SlotUpdate, event: DriveStarted, now_s: float) -> Step:
    stored = event.stored
    known = replace(
        state, running=event.running, confirmed=stored.confirmed, outcomes=stored.outcomes, unanswered=False
    )
    if not same_release(stored.trial, state.target):
        return _trial_ended(known, now_s)
    if known.phase is Phase.TAKING_BACK:
        return known, (Switch(stored.confirmed),)
    if not same_release(event.running, state.target):
        return _switch(replace(known, tries=0), now_s)
    return (known, ()) if known.phase is Phase.CONFIRMING else (_watch(known, now_s), ())


def _drive_started_returning(state: SlotUpdate, event: DriveStarted, now_s: float) -> Step:
    stored = event.stored
    known = replace(
        state, running=event.running, confirmed=stored.confirmed, outcomes=stored.outcomes, unanswered=False
    )
    if same_release(event.running, known.confirmed):
        return _returned(known)
    return replace(known, due_s=now_s + SWITCH_TIMEOUT_S), (Switch(known.confirmed),)


# The table. Handlers take the one event type that they are entered under, which the type of the table cannot say.

_Handler: TypeAlias = Callable[..., Step]

_TABLE: dict[tuple[Phase, type], _Handler] = {
    **{(phase, Switched): _switched_else for phase in Phase},
    **{(phase, Health): _learn for phase in Phase},
    **{(phase, DriveStarted): _drive_started for phase in Phase},
    **{(phase, DriveStarted): _drive_started_on_trial for phase in ON_TRIAL},
    **{(phase, Desired): _desired_when_ended for phase in ENDED},
    **{(phase, Tick): _remind for phase in ENDED},
    **{(phase, Desired): _desired_when_preparing for phase in PREPARING},
    **{(phase, Failed): _failed for phase in (*PREPARING, Phase.STARTING)},
    **{(phase, Refused): _refused for phase in (*PREPARING, Phase.STARTING)},
    (Phase.WAITING, Desired): _desired_when_waiting,
    (Phase.WAITING, Tick): _waited,
    (Phase.FETCHING, Progress): _progress,
    (Phase.FETCHING, FetchDone): _fetch_done,
    (Phase.TESTING, TestPassed): _test_passed,
    (Phase.INSTALLING, Installed): _installed,
    (Phase.STARTING, Desired): _desired_later,
    (Phase.STARTING, TrialBegun): _trial_begun,
    (Phase.SWITCHING, Desired): _desired_on_trial,
    (Phase.SWITCHING, Switched): _switched,
    (Phase.SWITCHING, Tick): _switch_again,
    (Phase.WATCHING, Desired): _desired_on_trial,
    (Phase.WATCHING, Health): _observe,
    (Phase.WATCHING, Tick): _window_tick,
    (Phase.CONFIRMING, Desired): _desired_later,
    (Phase.CONFIRMING, Stored): _stored,
    (Phase.CONFIRMING, Failed): _store_failed,
    (Phase.CONFIRMING, Tick): _confirm_again,
    (Phase.TAKING_BACK, Desired): _desired_later,
    (Phase.TAKING_BACK, Stored): _stored,
    (Phase.TAKING_BACK, Failed): _store_failed,
    (Phase.TAKING_BACK, Tick): _take_back_again,
    (Phase.RETURNING, Desired): _desired_later,
    (Phase.RETURNING, Switched): _switched_back,
    (Phase.RETURNING, Tick): _switch_back_again,
    (Phase.RETURNING, DriveStarted): _drive_started_returning,
}
