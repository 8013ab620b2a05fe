"""The updates of all slots as a pure function: when a release may switch, and which go together.

A slot's own machine says what it is ready for; what concerns several slots is decided here. Slots of one group begin
their trials in one write of the store, end them well in one write when all have passed, and are taken back in one
write when any fails, so no kill between two steps can leave some of them switched and others not. A slot that goes by
itself is a group of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from roadloop_agent.update.conditions import Facts, refusal, waits_for
from roadloop_agent.update.events import (
    BeginTrials,
    CompanionFailed,
    Confirm,
    Event,
    GroupAction,
    Keep,
    Refused,
    RememberReady,
    SlotAction,
    Start,
    TakeBack,
    Waits,
)
from roadloop_agent.update.machine import step
from roadloop_agent.update.phases import PREPARING, TRIED, Phase, SlotUpdate
from roadloop_agent.update.state import Ended, Ready, Trial, same_release
from roadloop_agent.update.trial import STORE_RETRY_S
from roadloop_models.contract.messages import Desired
from roadloop_models.errors import CompanionError

MAX_WAITS_FOR = 80
_BEFORE_TRIAL = (Phase.WAITING, *PREPARING, Phase.READY)


@dataclass(frozen=True)
class InSlot:
    """An action of one slot's machine."""

    slot: str
    action: SlotAction


Action: TypeAlias = InSlot | GroupAction
States: TypeAlias = Mapping[str, SlotUpdate]


def advance(
    states: States, slot: str, event: Event, facts: Facts, now_s: float
) -> tuple[dict[str, SlotUpdate], list[Action]]:
    """What follows from an event in one slot at `now_s` (monotonic), for all of them."""
    turn = _Turn(states, facts, now_s)
    turn.step(slot, event)
    return turn.settle()


def group_of(desired: Desired, states: States) -> tuple[str, ...]:
    """The slots whose release a desired state changes together; empty where each goes by itself."""
    if not desired.together:
        return ()
    changing = [
        slot for slot, ref in desired.slots.items() if slot in states and not same_release(ref, states[slot].confirmed)
    ]
    return tuple(sorted(changing)) if len(changing) > 1 else ()


class _Turn:
    """What is being made of the states; lives as long as one call of `advance`."""

    def __init__(self, states: States, facts: Facts, now_s: float) -> None:
        self._states = dict(states)
        self._facts = facts
        self._now_s = now_s
        self._actions: list[Action] = []

    def step(self, slot: str, event: Event) -> None:
        """One event in one slot."""
        self._states[slot], actions = step(self._states[slot], event, self._now_s)
        self._actions.extend(InSlot(slot, action) for action in actions)

    def settle(self) -> tuple[dict[str, SlotUpdate], list[Action]]:
        """Apply the rules until none has anything to say; each moves a slot on, and none moves one back."""
        rules = (self._refuse, self._fail_companions, self._take_back_companions, self._keep, self._start)
        while any(rule() for rule in rules):
            pass
        self._write()
        self._remember()
        return self._states, self._actions

    def _in(self, *phases: Phase) -> list[str]:
        return [slot for slot, state in self._states.items() if state.phase in phases]

    # Before a trial.

    def _refuse(self) -> bool:
        refused = False
        for slot in self._in(Phase.READY):
            state = self._states[slot]
            assert state.target is not None
            error = refusal(state.policy, slot, state.target, self._facts)
            if error is not None:
                self.step(slot, Refused(state.attempt, error))
                refused = True
        return refused

    def _fail_companions(self) -> bool:
        """Of a group that is not on trial yet none goes when one does not."""
        for slot in self._in(*_BEFORE_TRIAL):
            wanted = self._states[slot].wanted
            for other in () if wanted is None else wanted.group:
                companion = self._states.get(other)
                if companion is None or companion.phase not in (Phase.REFUSED, Phase.ROLLED_BACK):
                    continue
                if companion.wanted is not None and wanted is not None and companion.wanted.version == wanted.version:
                    self.step(slot, CompanionFailed(other, companion.error))
                    return True
        return False

    def _start(self) -> bool:
        for slot in self._in(Phase.READY):
            companions = self._companions(slot)
            missing = {each: self._missing(slot, each) for each in companions}
            if any(missing.values()):
                self._tell(companions, missing)
                continue
            group = companions if len(companions) > 1 else ()
            trials = {}
            for each in companions:
                target = self._states[each].target
                assert target is not None
                trials[each] = Trial(target, self._states[each].policy)
                self.step(each, Start(group))
                self._states[each] = replace(self._states[each], remembered=None)  # the trial takes its place
            self._actions.append(BeginTrials(trials))
            return True
        return False

    def _companions(self, slot: str) -> tuple[str, ...]:
        """The slots that switch with this one: those of its group, but for those that run what is wanted by now."""
        wanted = self._states[slot].wanted
        assert wanted is not None
        return tuple(each for each in wanted.group if each == slot or self._is_to_switch(each, wanted.version)) or (
            slot,
        )

    def _is_to_switch(self, slot: str, version: int) -> bool:
        state = self._states.get(slot)
        if state is None:
            return False
        done = state.phase is Phase.IDLE and state.wanted is not None and state.wanted.version == version
        return not done

    def _missing(self, slot: str, each: str) -> tuple[str, ...]:
        """What `each` waits for, so that `slot` may switch with it."""
        state, wanted = self._states[each], self._states[slot].wanted
        assert wanted is not None
        if state.phase is not Phase.READY or state.wanted is None or state.wanted.version != wanted.version:
            return ("to be ready",)
        assert state.target is not None
        return waits_for(state.policy.switch_when, each, state.target, self._facts)

    def _tell(self, companions: tuple[str, ...], missing: Mapping[str, tuple[str, ...]]) -> None:
        for slot in companions:
            if self._states[slot].phase is Phase.READY:
                others = [f"slot {other}" for other in companions if other != slot and missing[other]]
                what = ", ".join([*missing[slot], *others])[:MAX_WAITS_FOR]
                if what != self._states[slot].waits_for:
                    self.step(slot, Waits(what))

    def _remember(self) -> None:
        """The store is told what waits, where that has changed."""
        for slot, state in self._states.items():
            ready = None
            if state.phase is Phase.READY and state.wanted is not None:
                wanted = state.wanted
                ready = Ready(ref=wanted.ref, policy=wanted.policy, version=wanted.version, group=wanted.group)
            if ready != state.remembered:
                self._states[slot] = replace(state, remembered=ready)
                self._actions.append(RememberReady(slot, ready))

    # On trial.

    def _together(self, slot: str) -> tuple[str, ...]:
        """The slots on trial with this one."""
        group = self._states[slot].group
        return tuple(each for each in group if each in self._states and self._states[each].group == group) or (slot,)

    def _take_back_companions(self) -> bool:
        for slot in self._in(Phase.TAKING_BACK):
            for other in self._together(slot):
                if self._states[other].phase in (*TRIED, Phase.CONFIRMING):
                    self.step(other, CompanionFailed(slot, self._states[slot].error))
                    return True
        return False

    def _keep(self) -> bool:
        for slot in self._in(Phase.PASSED):
            together = self._together(slot)
            if all(self._states[each].phase in (Phase.PASSED, Phase.CONFIRMING) for each in together):
                for each in together:
                    self.step(each, Keep())
                return True
        return False

    def _write(self) -> None:
        """End the trials in the store, now or again."""
        written: set[str] = set()
        for slot in self._in(Phase.CONFIRMING, Phase.TAKING_BACK):
            together, phase = self._together(slot), self._states[slot].phase
            members = [self._states[each] for each in together]
            due = all(state.phase is phase and state.due_s <= self._now_s for state in members)
            if slot in written or not due:
                continue
            written.update(together)
            for each in together:
                self._states[each] = replace(self._states[each], due_s=self._now_s + STORE_RETRY_S)
            self._actions.append(self._confirm(together) if phase is Phase.CONFIRMING else self._take_back(together))

    def _confirm(self, together: tuple[str, ...]) -> Confirm:
        targets = {each: self._states[each].target for each in together}
        return Confirm({each: target for each, target in targets.items() if target is not None})

    def _take_back(self, together: tuple[str, ...]) -> TakeBack:
        ended = {}
        for each in together:
            state = self._states[each]
            assert state.target is not None
            to_blame = state.error is not None and state.error.code != CompanionError.code
            ended[each] = Ended(state.target, state.error if to_blame else None)
        return TakeBack(ended)
