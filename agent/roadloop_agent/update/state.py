"""What the store remembers of each slot, and how it changes: pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec

from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef
from roadloop_models.errors import ConflictError, HealthError

MAX_OUTCOMES = 16
STARTS_ON_TRIAL = 2
"""How often drive may start with a version on trial before that version is given up."""

Result = Literal["rolled-back", "refused"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A release that this slot will not try again, and why."""

    ref: ReleaseRef
    result: Result
    error: ErrorInfo


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is installed and waits for its moment: kept, because that may come where there is no network.

    `version`: of the desired state that wants it. `group`: the slots that it switches together with; empty: by itself.
    """

    ref: ReleaseRef
    policy: Policy
    version: int
    group: tuple[str, ...] = ()


class SlotState(msgspec.Struct, frozen=True, kw_only=True):
    """`confirmed` has proved itself; `trial` runs in its place until its health window ends.

    `previous` was confirmed before: the next to fall back on. `policy` is how the trial is judged: it is kept here
    so that a vehicle which restarts without a network can end the trial. `group`: the slots whose trials begin and end
    with this one's, itself among them; empty where it is on trial by itself. `partners`: those that were confirmed
    together with what is confirmed: where one of them is found damaged, all go back to what they ran before.
    """

    confirmed: ReleaseRef
    previous: ReleaseRef | None = None
    trial: ReleaseRef | None = None
    tries_left: Annotated[int, msgspec.Meta(ge=0)] = 0
    policy: Policy = Policy()
    group: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    ready: Ready | None = None
    outcomes: Annotated[tuple[Outcome, ...], msgspec.Meta(max_length=MAX_OUTCOMES)] = ()

    @property
    def refs(self) -> tuple[ReleaseRef, ...]:
        """Every release that this slot may run without fetching anything, the newest wish first."""
        return tuple(ref for ref in (self.trial, self.confirmed, self.previous) if ref is not None)

    @property
    def kept(self) -> tuple[ReleaseRef, ...]:
        """Every release whose files must stay."""
        return self.refs if self.ready is None else (self.ready.ref, *self.refs)


@dataclass(frozen=True)
class Trial:
    """A trial that begins: what goes on trial, and how it is judged."""

    ref: ReleaseRef
    policy: Policy


@dataclass(frozen=True)
class Ended:
    """A trial that ends badly; without an error the release is not to blame."""

    ref: ReleaseRef
    error: ErrorInfo | None = None


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. `desired_version` is the newest desired state that was accepted."""

    format: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1
    desired_version: Annotated[int, msgspec.Meta(ge=0)] = 0
    slots: dict[str, SlotState] = {}


Slots: TypeAlias = Mapping[str, SlotState]


def same_release(one: ReleaseRef | None, other: ReleaseRef | None) -> bool:
    """Whether both name the same signed content."""
    if one is None or other is None:
        return one is other
    return (one.task, one.release, one.manifest_sha256) == (other.task, other.release, other.manifest_sha256)


def outcome_of(outcomes: tuple[Outcome, ...], ref: ReleaseRef) -> Outcome | None:
    """The recorded outcome of a release, if it has one."""
    return next((outcome for outcome in reversed(outcomes) if same_release(outcome.ref, ref)), None)


# Of one slot.


def _begin_trial(state: SlotState, trial: Trial, group: tuple[str, ...]) -> SlotState:
    ref = trial.ref
    if state.trial is not None and not same_release(state.trial, ref):
        raise ConflictError(f"release {state.trial.release} is on trial, release {ref.release} has to wait for its end")
    return msgspec.structs.replace(
        state, trial=ref, tries_left=STARTS_ON_TRIAL, policy=trial.policy, group=group, ready=None
    )


def _confirm(state: SlotState, ref: ReleaseRef) -> SlotState:
    if state.trial is None and same_release(state.confirmed, ref):
        return state
    if not same_release(state.trial, ref):
        raise ConflictError(f"release {ref.release} is not on trial")
    return msgspec.structs.replace(
        state, confirmed=ref, previous=state.confirmed, trial=None, tries_left=0, group=(), partners=()
    )


def _take_back(state: SlotState, ended: Ended) -> SlotState:
    if not same_release(state.trial, ended.ref):
        return state
    over = msgspec.structs.replace(state, trial=None, tries_left=0, group=())
    return (
        over if ended.error is None else record(over, Outcome(ref=ended.ref, result="rolled-back", error=ended.error))
    )


def record(state: SlotState, outcome: Outcome) -> SlotState:
    """Remember an outcome; the oldest of more than MAX_OUTCOMES is forgotten."""
    others = [kept for kept in state.outcomes if not same_release(kept.ref, outcome.ref)]
    return msgspec.structs.replace(state, outcomes=(*others, outcome)[-MAX_OUTCOMES:])


# Of slots that go together: all of them, or none. Slots that are not named stay as they are.


def begin_trials(slots: Slots, trials: Mapping[str, Trial]) -> dict[str, SlotState]:
    """Put releases on trial together. Raises ConflictError where another one is on trial in one of the slots."""
    group = tuple(sorted(trials)) if len(trials) > 1 else ()
    return {**slots, **{slot: _begin_trial(slots[slot], trial, group) for slot, trial in trials.items()}}


def confirm(slots: Slots, refs: Mapping[str, ReleaseRef]) -> dict[str, SlotState]:
    """Keep the releases on trial.

    Raises ConflictError where one is not on trial (nor confirmed already), or without those that it goes together with.
    """
    for slot in refs:
        if slots[slot].trial is not None and (left_out := set(slots[slot].group) - set(refs)):
            raise ConflictError(f"slot {slot} is confirmed together with {', '.join(sorted(left_out))}, or not at all")
    after = dict(slots)
    for slot, ref in refs.items():
        confirmed = _confirm(slots[slot], ref)
        if confirmed is not slots[slot]:
            after = {**part(after, slot), slot: confirmed}
    for slot in refs:
        if after[slot] is not slots[slot] and slots[slot].group:
            after[slot] = msgspec.structs.replace(after[slot], partners=slots[slot].group)
    return after


def part(slots: Slots, slot: str) -> dict[str, SlotState]:
    """The slot's release changes: those that were confirmed together with it do not go with it any more."""
    members = [each for each in (slot, *slots[slot].partners) if each in slots]
    return {**slots, **{each: msgspec.structs.replace(slots[each], partners=()) for each in members}}


def take_back(slots: Slots, ended: Mapping[str, Ended]) -> dict[str, SlotState]:
    """End trials, and with each the trials that go together with it; with an error the release is recorded.

    No change where a release is not on trial.
    """
    after = dict(slots)
    for slot, end in ended.items():
        if same_release(slots[slot].trial, end.ref):
            for other in slots[slot].group:
                trial = None if other not in slots else slots[other].trial
                if other not in ended and trial is not None:
                    after[other] = _take_back(slots[other], Ended(trial))
        after[slot] = _take_back(slots[slot], end)
    return after


def spend_try(slots: Slots, slot: str) -> dict[str, SlotState]:
    """One start of drive: the slot's trial loses a try, or ends where it has none left."""
    state = slots[slot]
    if state.trial is None:
        return dict(slots)
    if state.tries_left > 0:
        return {**slots, slot: msgspec.structs.replace(state, tries_left=state.tries_left - 1)}
    detail = f"release {state.trial.release} did not outlive its trial: drive was started again too often"
    return take_back(slots, {slot: Ended(state.trial, ErrorInfo(code=HealthError.code, detail=detail))})
