"""The candidate in a slot's shadow as a pure function: (state, event, now) -> (state, actions).

    none -> preparing -> offered -> refused
               | ^         | ^
            waiting      yielding

It is independent of the slot's update, but for one thing: a candidate that becomes what the update is about leaves the
shadow (`yielding`) and comes back where the update lets go of it. What it added up to stays. A candidate is *prepared*
as any release is: fetched, verified, tested, installed. Drive is told what to run and asked again while it does not
say that it does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

import msgspec

from roadloop_models.contract.messages import ErrorInfo, ReleaseRef, ShadowPolicy, ShadowReport
from roadloop_models.contract.shadows import add, same_content
from roadloop_models.errors import TrustError

BACKOFF_FIRST_S = 2.0
BACKOFF_MAX_S = 300.0
ASK_AGAIN_S = 10.0


class Phase(Enum):
    """Where the candidate is."""

    NONE = "none"
    PREPARING = "preparing"
    WAITING = "waiting"
    OFFERED = "offered"
    YIELDING = "yielding"
    REFUSED = "refused"


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate beside one incumbent added up to: runs that are over, and the last one."""

    incumbent: ReleaseRef
    before: ShadowReport
    run: str
    now: ShadowReport

    @property
    def total(self) -> ShadowReport:
        """Both; what it says of the state is the last run's."""
        return add(self.before, self.now)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What of a slot's shadow outlives a restart. It may be lost: then it begins again from nothing."""

    wanted: ReleaseRef | None = None
    policy: ShadowPolicy = ShadowPolicy()
    refused: ErrorInfo | None = None
    tally: Tally | None = None


@dataclass(frozen=True)
class SlotShadow:
    """The state of one slot's shadow. `due_s` (monotonic): when it is tried, or drive is asked, again."""

    task: str
    memory: Memory = field(default_factory=Memory)
    phase: Phase = Phase.NONE
    attempt: int = 0
    failures: int = 0
    due_s: float = 0.0
    error: ErrorInfo | None = None
    heard: bool = False
    """Whether drive has said anything of the candidate since it was asked first."""

    @property
    def wanted(self) -> ReleaseRef | None:
        """The candidate."""
        return self.memory.wanted

    @property
    def report(self) -> ShadowReport | None:
        """What is reported while a candidate is wanted."""
        if self.wanted is None:
            return None
        seen = self.seen
        report = ShadowReport(ref=self.wanted, state="loading") if seen is None else seen
        if self.phase is Phase.REFUSED:
            return msgspec.structs.replace(report, state="refused", error=self.error)
        if self.phase is Phase.YIELDING:
            return msgspec.structs.replace(report, state="paused", error=None)
        if self.phase is Phase.OFFERED and self.heard:
            return report
        return msgspec.structs.replace(report, state="loading", error=self.error)

    @property
    def seen(self) -> ShadowReport | None:
        """What is known of the candidate, or of the last one there was."""
        tally = self.memory.tally
        if tally is None or (self.wanted is not None and not same_content(tally.now.ref, self.wanted)):
            return None
        return tally.total


# Events.


@dataclass(frozen=True)
class Wanted:
    """What the cloud wants in the shadow; None: nobody."""

    ref: ReleaseRef | None
    policy: ShadowPolicy


@dataclass(frozen=True)
class Prepared:
    """The candidate is installed."""

    attempt: int


@dataclass(frozen=True)
class Failed:
    """It could not be prepared now. `jitter` in [0, 1) spreads the fleet's retries."""

    attempt: int
    error: ErrorInfo
    jitter: float = 0.0


@dataclass(frozen=True)
class Refused:
    """It is not acceptable here."""

    attempt: int
    error: ErrorInfo


@dataclass(frozen=True)
class Said:
    """Drive's word about a candidate: everything since `run` began."""

    incumbent: ReleaseRef
    run: str
    report: ShadowReport


@dataclass(frozen=True)
class DriveStarted:
    """Drive has started, or link has attached to it."""


@dataclass(frozen=True)
class Tick:
    """Time has passed. `taken`: what the slot runs, and what its update is about."""

    taken: tuple[ReleaseRef, ...]


Event: TypeAlias = Wanted | Prepared | Failed | Refused | Said | DriveStarted | Tick


# Actions.


@dataclass(frozen=True)
class Prepare:
    """Fetch, test and install. Answer: Prepared, Failed or Refused."""

    attempt: int
    ref: ReleaseRef


@dataclass(frozen=True)
class Ask:
    """Tell drive whom to run in the shadow; None: nobody."""

    ref: ReleaseRef | None
    max_cpu_share: float = 0.0


Action: TypeAlias = Prepare | Ask
Step: TypeAlias = tuple[SlotShadow, tuple[Action, ...]]


def recovered(task: str, memory: Memory) -> SlotShadow:
    """After a restart: what is wanted is prepared again, of which little is left to do."""
    state = SlotShadow(task, memory)
    if memory.wanted is None:
        return state
    if memory.refused is not None:
        return replace(state, phase=Phase.REFUSED, error=memory.refused)
    return replace(state, phase=Phase.WAITING)


def step(state: SlotShadow, event: Event, now_s: float) -> Step:
    """What follows from `event` at `now_s` (monotonic)."""
    attempt = getattr(event, "attempt", None)
    if attempt is not None and (attempt != state.attempt or state.phase is not Phase.PREPARING):
        return state, ()
    return _HANDLERS[type(event)](state, event, now_s)


def _wanted(state: SlotShadow, event: Wanted, now_s: float) -> Step:
    before = state.wanted
    if event.ref is None:
        memory = Memory(tally=state.memory.tally)
        ended = replace(state, memory=memory, phase=Phase.NONE, attempt=state.attempt + 1, error=None)
        return ended, (Ask(None),) if before is not None else ()
    if before is not None and same_content(before, event.ref):
        if event.policy == state.memory.policy:
            return state, ()
        memory = msgspec.structs.replace(state.memory, policy=event.policy)
        return replace(state, memory=memory, due_s=now_s), ()
    memory = Memory(wanted=event.ref, policy=event.policy, tally=_kept(state.memory.tally, event.ref))
    begun = replace(state, memory=memory, attempt=state.attempt + 1, failures=0, due_s=now_s, error=None)
    quiet: tuple[Action, ...] = (Ask(None),) if before is not None else ()
    if event.ref.task != state.task:
        detail = f"release {event.ref.release} is for {event.ref.task}, the slot runs {state.task}"
        return _refuse(begun, ErrorInfo(code=TrustError.code, detail=detail), quiet)
    return replace(begun, phase=Phase.WAITING), quiet


def _kept(tally: Tally | None, ref: ReleaseRef) -> Tally | None:
    return tally if tally is not None and same_content(tally.now.ref, ref) else None


def _prepared(state: SlotShadow, event: Prepared, now_s: float) -> Step:
    return _ask(replace(state, phase=Phase.OFFERED, failures=0, error=None, heard=False), now_s)


def _failed(state: SlotShadow, event: Failed, now_s: float) -> Step:
    wait_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(state.failures, 16)) * (0.5 + 0.5 * event.jitter)
    due_s = now_s + wait_s
    return replace(state, phase=Phase.WAITING, failures=state.failures + 1, due_s=due_s, error=event.error), ()


def _refused(state: SlotShadow, event: Refused, now_s: float) -> Step:
    return _refuse(state, event.error, ())


def _refuse(state: SlotShadow, error: ErrorInfo, actions: tuple[Action, ...]) -> Step:
    memory = msgspec.structs.replace(state.memory, refused=error)
    return replace(state, memory=memory, phase=Phase.REFUSED, error=error), actions


def _said(state: SlotShadow, event: Said, now_s: float) -> Step:
    """Sums count for whatever candidate they are about, as long as it is the one that is known."""
    tally = state.memory.tally
    known = state.wanted if state.wanted is not None else None if tally is None else tally.now.ref
    if known is None or not same_content(known, event.report.ref):
        return state, (Ask(None),) if state.phase is not Phase.OFFERED else ()
    memory = msgspec.structs.replace(state.memory, tally=_counted(tally, event))
    heard = replace(state, memory=memory)
    if state.phase is not Phase.OFFERED:
        return heard, (Ask(None),)
    if event.report.state == "refused" and event.report.error is not None:
        return _refuse(heard, event.report.error, (Ask(None),))
    return replace(heard, due_s=now_s + ASK_AGAIN_S, heard=True), ()


def _counted(tally: Tally | None, event: Said) -> Tally:
    """Nothing is counted twice: a run replaces its own sums. Beside another incumbent counting begins anew."""
    nothing = ShadowReport(ref=event.report.ref, state="loading")
    if tally is None or not same_content(tally.now.ref, event.report.ref):
        return Tally(incumbent=event.incumbent, before=nothing, run=event.run, now=event.report)
    if not same_content(tally.incumbent, event.incumbent):
        return Tally(incumbent=event.incumbent, before=nothing, run=event.run, now=event.report)
    before = tally.before if tally.run == event.run else tally.total
    return Tally(incumbent=event.incumbent, before=before, run=event.run, now=event.report)


def _drive_started(state: SlotShadow, event: DriveStarted, now_s: float) -> Step:
    return replace(state, due_s=now_s, heard=False) if state.phase is Phase.OFFERED else state, ()


def _tick(state: SlotShadow, event: Tick, now_s: float) -> Step:
    if state.wanted is None or state.phase is Phase.REFUSED:
        return state, ()
    taken = any(same_content(state.wanted, ref) for ref in event.taken)
    if taken and state.phase is not Phase.YIELDING:
        return replace(state, phase=Phase.YIELDING, attempt=state.attempt + 1, error=None), (Ask(None),)
    if state.phase is Phase.YIELDING:
        return (state, ()) if taken else (replace(state, phase=Phase.WAITING, due_s=now_s), ())
    if now_s < state.due_s or state.phase is Phase.PREPARING:
        return state, ()
    if state.phase is Phase.OFFERED:
        return _ask(state, now_s)
    attempt = state.attempt + 1
    return replace(state, phase=Phase.PREPARING, attempt=attempt), (Prepare(attempt, state.wanted),)


def _ask(state: SlotShadow, now_s: float) -> Step:
    asked = replace(state, due_s=now_s + ASK_AGAIN_S)
    return asked, (Ask(state.wanted, state.memory.policy.max_cpu_share),)


_HANDLERS: dict[type, Callable[..., Step]] = {
    Wanted: _wanted,
    Prepared: _prepared,
    Failed: _failed,
    Refused: _refused,
    Said: _said,
    DriveStarted: _drive_started,
    Tick: _tick,
}
