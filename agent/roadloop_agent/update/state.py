"""What the store remembers of each slot, and how it changes: pure functions."""

from typing import Annotated, Literal

import msgspec

from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef
from roadloop_models.errors import ConflictError

MAX_OUTCOMES = 16
STARTS_ON_TRIAL = 2
"""How often drive may start with a version on trial before that version is given up."""

Result = Literal["rolled-back", "refused"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A release that this slot will not try again, and why."""

    ref: ReleaseRef
    result: Result
    error: ErrorInfo


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """`confirmed` has proved itself; `trial` runs in its place until its health window ends.

    `previous` was confirmed before: the next to fall back on. `policy` is how the trial is judged: it is kept here
    so that a vehicle which restarts without a network can end the trial.
    """

    confirmed: ReleaseRef
    previous: ReleaseRef | None = None
    trial: ReleaseRef | None = None
    tries_left: Annotated[int, msgspec.Meta(ge=0)] = 0
    policy: Policy = Policy()
    outcomes: Annotated[tuple[Outcome, ...], msgspec.Meta(max_length=MAX_OUTCOMES)] = ()

    @property
    def refs(self) -> tuple[ReleaseRef, ...]:
        """Every release that this slot may run without fetching anything, the newest wish first."""
        return tuple(ref for ref in (self.trial, self.confirmed, self.previous) if ref is not None)


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. `desired_version` is the newest desired state that was accepted."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    desired_version: Annotated[int, msgspec.Meta(ge=0)] = 0
    slots: dict[str, SlotState] = {}


def same_release(one: ReleaseRef | None, other: ReleaseRef | None) -> bool:
    """Whether both name the same signed content."""
    if one is None or other is None:
        return one is other
    return (one.task, one.release, one.manifest_sha256) == (other.task, other.release, other.manifest_sha256)


def outcome_of(outcomes: tuple[Outcome, ...], ref: ReleaseRef) -> Outcome | None:
    """The recorded outcome of a release, if it has one."""
    return next((outcome for outcome in reversed(outcomes) if same_release(outcome.ref, ref)), None)


def begin_trial(state: SlotState, ref: ReleaseRef, policy: Policy, tries: int = STARTS_ON_TRIAL) -> SlotState:
    """Put a release on trial. Raises ConflictError where another one is."""
    if state.trial is not None and not same_release(state.trial, ref):
        raise ConflictError(f"release {state.trial.release} is on trial, release {ref.release} has to wait for its end")
    return msgspec.structs.replace(state, trial=ref, tries_left=tries, policy=policy)


def confirm(state: SlotState, ref: ReleaseRef) -> SlotState:
    """Keep the release on trial. Raises ConflictError where it is not on trial (nor confirmed already)."""
    if state.trial is None and same_release(state.confirmed, ref):
        return state
    if not same_release(state.trial, ref):
        raise ConflictError(f"release {ref.release} is not on trial")
    return msgspec.structs.replace(state, confirmed=ref, previous=state.confirmed, trial=None, tries_left=0)


def take_back(state: SlotState, ref: ReleaseRef, error: ErrorInfo | None) -> SlotState:
    """End the trial of `ref`; with an error it is recorded as rolled back. No change where it is not on trial."""
    if not same_release(state.trial, ref):
        return state
    ended = msgspec.structs.replace(state, trial=None, tries_left=0)
    return ended if error is None else record(ended, Outcome(ref=ref, result="rolled-back", error=error))


def spend_try(state: SlotState) -> SlotState:
    """One start of drive: a trial loses a try, or ends where it has none left."""
    if state.trial is None:
        return state
    if state.tries_left > 0:
        return msgspec.structs.replace(state, tries_left=state.tries_left - 1)
    detail = f"release {state.trial.release} did not outlive its trial: drive was started again too often"
    return take_back(state, state.trial, ErrorInfo(code="health-failed", detail=detail))


def record(state: SlotState, outcome: Outcome) -> SlotState:
    """Remember an outcome; the oldest of more than MAX_OUTCOMES is forgotten."""
    others = [kept for kept in state.outcomes if not same_release(kept.ref, outcome.ref)]
    return msgspec.structs.replace(state, outcomes=(*others, outcome)[-MAX_OUTCOMES:])
