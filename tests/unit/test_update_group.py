"""Slots that switch together or not at all, case by case. Any order of events is in test_update_life.py."""

from dataclasses import replace

import pytest

from roadloop_agent.update import events as ev
from roadloop_agent.update import state as states
from roadloop_agent.update.conditions import Facts
from roadloop_agent.update.group import Action, InSlot, advance, group_of
from roadloop_agent.update.phases import Phase, SlotUpdate, recovered
from roadloop_agent.update.state import Ended, Outcome, Ready, SlotState, Trial
from roadloop_agent.update.trial import STORE_RETRY_S
from roadloop_models.contract.messages import Desired, ErrorInfo, Policy, ReleaseRef, SwitchWhen
from roadloop_models.errors import ConflictError
from tests.unit.test_update_machine import Sample

TASKS = {"sign": "traffic-sign", "speed": "traffic-speed", "count": "vehicle-count"}
POLICY = Policy(health_window_s=30.0, max_error_rate=0.1)
BROKEN = ErrorInfo(code="golden-mismatch", detail="vector 3 is off")
FULL = ErrorInfo(code="disk-full", detail="no room")


def ref(slot: str, release: int) -> ReleaseRef:
    return ReleaseRef(task=TASKS[slot], release=release, version=f"v{release}", manifest_sha256=f"{release:064x}")


class Vehicle:
    """Two slots, `sign` and `speed`, that are to go to release 2 together; what the store is told is done."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.stored = {slot: SlotState(confirmed=ref(slot, 1)) for slot in ("sign", "speed")}
        self.states = {
            slot: replace(SlotUpdate(TASKS[slot], ref(slot, 1)), running=ref(slot, 1)) for slot in self.stored
        }
        self.writes: list[ev.GroupAction] = []
        self.actions: list[Action] = []
        self.disk_full = False
        self.facts = Facts()
        self.now_s = 0.0

    def wish(self, sign: int = 2, speed: int = 2, version: int = 1, together: bool = True) -> None:
        refs = {"sign": ref("sign", sign), "speed": ref("speed", speed)}
        desired = Desired(version=version, slots=refs, policy=self.policy, together=together)
        group = group_of(desired, self.states)
        for slot, wanted in refs.items():
            self.feed(slot, ev.Desired(wanted, desired.policy, version, group if slot in group else ()))

    def feed(self, slot: str, event: ev.Event) -> None:
        self.states, actions = advance(self.states, slot, event, self.facts, self.now_s)
        self.actions += actions
        for action in actions:
            if not isinstance(action, InSlot):
                self.write(action)

    def write(self, action: ev.GroupAction) -> None:
        self.writes.append(action)
        if isinstance(action, ev.RememberReady):
            return
        if isinstance(action, ev.BeginTrials):
            change, names = states.begin_trials(self.stored, action.trials), list(action.trials)
        elif isinstance(action, ev.Confirm):
            change, names = states.confirm(self.stored, action.refs), list(action.refs)
        else:
            change, names = states.take_back(self.stored, action.ended), list(action.ended)
        attempts = {slot: self.states[slot].attempt for slot in names}
        self.stored = self.stored if self.disk_full else change
        for slot in names:
            if self.disk_full:
                self.feed(slot, ev.Failed(attempts[slot], FULL))
            elif isinstance(action, ev.BeginTrials):
                self.feed(slot, ev.TrialBegun(attempts[slot]))
            else:
                self.feed(slot, ev.Stored(attempts[slot], self.stored[slot]))

    def prepared(self, *slots: str) -> None:
        for slot in slots:
            n = self.states[slot].attempt
            for event in (ev.FetchDone(n), ev.TestPassed(n), ev.Installed(n)):
                self.feed(slot, event)

    def switched(self, *slots: str) -> None:
        for slot in slots:
            self.feed(slot, ev.Switched(ref(slot, 2), ok=True))
            self.feed(slot, ev.Health(Sample(ref(slot, 2))))

    def on_trial(self) -> "Vehicle":
        self.wish()
        self.prepared("sign", "speed")
        self.switched("sign", "speed")
        assert self.phases == [Phase.WATCHING, Phase.WATCHING]
        return self

    @property
    def phases(self) -> list[Phase]:
        return [self.states[slot].phase for slot in ("sign", "speed")]

    @property
    def ends(self) -> list[ev.GroupAction]:
        """What the store was told, but for what it is to remember."""
        return [write for write in self.writes if not isinstance(write, ev.RememberReady)]


def test_none_starts_before_all_are_ready_and_then_all_do_in_one_write() -> None:
    vehicle = Vehicle()
    vehicle.wish()
    vehicle.prepared("sign")
    assert vehicle.phases == [Phase.READY, Phase.FETCHING] and vehicle.ends == []
    assert vehicle.states["sign"].waits_for == "slot speed"
    vehicle.prepared("speed")
    assert vehicle.phases == [Phase.SWITCHING, Phase.SWITCHING]
    assert vehicle.ends == [ev.BeginTrials({slot: Trial(ref(slot, 2), POLICY) for slot in ("sign", "speed")})]
    assert all(state.group == ("sign", "speed") for state in vehicle.stored.values())


def test_none_is_kept_before_all_have_passed_and_then_all_are_in_one_write() -> None:
    vehicle = Vehicle().on_trial()
    vehicle.now_s = 31.0
    vehicle.feed("sign", ev.Tick())
    assert vehicle.phases == [Phase.PASSED, Phase.WATCHING] and len(vehicle.ends) == 1
    vehicle.feed("speed", ev.Tick())
    assert vehicle.ends[1:] == [ev.Confirm({"sign": ref("sign", 2), "speed": ref("speed", 2)})]
    assert vehicle.phases == [Phase.IDLE, Phase.IDLE]


def test_one_that_fails_takes_all_back_in_one_write_and_alone_is_to_blame() -> None:
    vehicle = Vehicle().on_trial()
    vehicle.feed("speed", ev.Health(Sample(ref("speed", 2), decisions=0, errors=50)))
    (taken_back,) = vehicle.ends[1:]
    assert isinstance(taken_back, ev.TakeBack) and set(taken_back.ended) == {"sign", "speed"}
    assert taken_back.ended["sign"] == Ended(ref("sign", 2), None)
    assert [len(vehicle.stored[slot].outcomes) for slot in ("sign", "speed")] == [0, 1]
    assert all(state.trial is None for state in vehicle.stored.values())
    for slot in ("sign", "speed"):
        assert InSlot(slot, ev.Switch(ref(slot, 1))) in vehicle.actions
        vehicle.feed(slot, ev.Switched(ref(slot, 1), ok=True))
    assert vehicle.phases == [Phase.ROLLED_BACK, Phase.ROLLED_BACK]
    error = vehicle.states["sign"].error
    assert error is not None and error.code == "companion-failed" and "slot speed" in error.detail


def test_one_that_has_passed_can_still_fail_while_it_waits() -> None:
    vehicle = Vehicle().on_trial()
    vehicle.now_s = 31.0
    vehicle.feed("sign", ev.Tick())
    vehicle.feed("sign", ev.Health(Sample(ref("sign", 2), decisions=0, errors=50)))
    assert isinstance(vehicle.ends[-1], ev.TakeBack)


def test_one_that_is_refused_before_the_trial_stops_the_other_without_blame() -> None:
    vehicle = Vehicle()
    vehicle.wish()
    vehicle.prepared("sign")
    vehicle.feed("speed", ev.Refused(vehicle.states["speed"].attempt, BROKEN))
    assert vehicle.phases == [Phase.REFUSED, Phase.REFUSED] and vehicle.ends == []
    error = vehicle.states["sign"].error
    assert error is not None and error.code == "companion-failed" and "golden-mismatch" in error.detail
    assert vehicle.states["sign"].outcomes == () and vehicle.writes[-1] == ev.RememberReady("sign", None)
    vehicle.wish(version=2)
    assert vehicle.phases == [Phase.REFUSED, Phase.REFUSED], "not while the other one's outcome stands"
    vehicle.wish(version=3, together=False)
    assert vehicle.phases == [Phase.FETCHING, Phase.REFUSED]


def test_what_is_fetched_for_a_group_that_fails_is_given_up() -> None:
    vehicle = Vehicle()
    vehicle.wish()
    before = vehicle.states["sign"].attempt
    vehicle.feed("speed", ev.Refused(vehicle.states["speed"].attempt, BROKEN))
    assert vehicle.states["sign"].phase is Phase.REFUSED and vehicle.states["sign"].attempt != before


def test_one_that_drive_cannot_load_takes_the_other_back() -> None:
    vehicle = Vehicle()
    vehicle.wish()
    vehicle.prepared("sign", "speed")
    vehicle.switched("sign")
    vehicle.feed("speed", ev.Switched(ref("speed", 2), ok=False, error=BROKEN))
    assert isinstance(vehicle.ends[-1], ev.TakeBack) and all(one.trial is None for one in vehicle.stored.values())


def test_a_wish_that_gives_one_up_takes_both_back_without_blame() -> None:
    vehicle = Vehicle().on_trial()
    vehicle.wish(sign=1, speed=2, version=2)
    assert vehicle.ends[1:] == [ev.TakeBack({slot: Ended(ref(slot, 2), None) for slot in ("sign", "speed")})]
    for slot in ("sign", "speed"):
        vehicle.feed(slot, ev.Switched(ref(slot, 1), ok=True))
    assert vehicle.phases == [Phase.IDLE, Phase.FETCHING], "the other one goes on by itself"


def test_conditions_of_one_hold_up_all() -> None:
    vehicle = Vehicle(Policy(health_window_s=30.0, switch_when=SwitchWhen(consent=True)))
    vehicle.wish()
    vehicle.prepared("sign", "speed")
    assert {state.waits_for for state in vehicle.states.values()} == {"consent, slot speed", "consent, slot sign"}
    vehicle.facts = Facts(consents={("sign", ref("sign", 2)): True})
    vehicle.feed("sign", ev.Tick())
    assert vehicle.phases == [Phase.READY, Phase.READY] and vehicle.states["sign"].waits_for == "slot speed"
    vehicle.facts = Facts(consents={(slot, ref(slot, 2)): True for slot in ("sign", "speed")})
    vehicle.feed("sign", ev.Tick())
    assert vehicle.phases == [Phase.SWITCHING, Phase.SWITCHING]


def test_consent_that_is_refused_to_one_refuses_all() -> None:
    vehicle = Vehicle(Policy(health_window_s=30.0, switch_when=SwitchWhen(consent=True)))
    vehicle.wish()
    vehicle.prepared("sign", "speed")
    vehicle.facts = Facts(consents={("sign", ref("sign", 2)): False, ("speed", ref("speed", 2)): True})
    vehicle.feed("speed", ev.Tick())
    codes = [state.error.code for state in vehicle.states.values() if state.error is not None]
    assert vehicle.phases == [Phase.REFUSED, Phase.REFUSED] and codes == ["consent-refused", "companion-failed"]


def test_a_disk_that_is_full_is_written_again_for_both_at_once() -> None:
    vehicle = Vehicle().on_trial()
    vehicle.disk_full, vehicle.now_s = True, 31.0
    vehicle.feed("sign", ev.Tick())
    vehicle.feed("speed", ev.Tick())
    assert vehicle.phases == [Phase.CONFIRMING, Phase.CONFIRMING] and len(vehicle.ends) == 2
    vehicle.feed("sign", ev.Tick())
    assert len(vehicle.ends) == 2, "not at once"
    vehicle.disk_full, vehicle.now_s = False, 31.0 + STORE_RETRY_S
    vehicle.feed("sign", ev.Tick())
    assert vehicle.phases == [Phase.IDLE, Phase.IDLE] and len(vehicle.ends) == 3


def test_a_full_disk_does_not_keep_a_bad_group_driving() -> None:
    vehicle = Vehicle().on_trial()
    vehicle.disk_full = True
    vehicle.feed("sign", ev.Health(Sample(ref("sign", 2), decisions=0, errors=50)))
    switches = [
        action for action in vehicle.actions if isinstance(action, InSlot) and isinstance(action.action, ev.Switch)
    ]
    assert switches[-2:] == [InSlot(slot, ev.Switch(ref(slot, 1))) for slot in ("sign", "speed")]
    vehicle.disk_full, vehicle.now_s = False, STORE_RETRY_S
    vehicle.feed("speed", ev.Tick())
    assert [len(vehicle.stored[slot].outcomes) for slot in ("sign", "speed")] == [1, 0]


def test_after_a_restart_a_group_on_trial_ends_as_one() -> None:
    vehicle = Vehicle().on_trial()
    vehicle.states = {slot: recovered(TASKS[slot], vehicle.stored[slot], 1) for slot in vehicle.stored}
    for slot in vehicle.stored:
        vehicle.feed(slot, ev.DriveStarted(ref(slot, 2), vehicle.stored[slot]))
    vehicle.feed("speed", ev.Health(Sample(ref("speed", 2), decisions=0, errors=50)))
    assert all(state.trial is None for state in vehicle.stored.values())


def test_after_a_restart_what_is_ready_waits_for_those_that_are_not() -> None:
    policy = Policy(health_window_s=30.0)
    ready = Ready(ref=ref("sign", 2), policy=policy, version=1, group=("sign", "speed"))
    vehicle = Vehicle()
    vehicle.stored["sign"] = SlotState(confirmed=ref("sign", 1), ready=ready)
    vehicle.states = {slot: recovered(TASKS[slot], vehicle.stored[slot], 1) for slot in vehicle.stored}
    vehicle.feed("sign", ev.Tick())
    assert vehicle.phases == [Phase.READY, Phase.IDLE] and vehicle.ends == []
    vehicle.wish()
    vehicle.prepared("speed")
    assert vehicle.phases == [Phase.SWITCHING, Phase.SWITCHING]


def test_what_drive_took_back_of_one_is_taken_back_of_all() -> None:
    vehicle = Vehicle().on_trial()
    vehicle.stored = states.take_back(vehicle.stored, {"speed": Ended(ref("speed", 2), BROKEN)})
    assert vehicle.stored["sign"].trial is None and vehicle.stored["sign"].outcomes == ()
    for slot in vehicle.stored:
        vehicle.feed(slot, ev.DriveStarted(ref(slot, 1), vehicle.stored[slot]))
    assert vehicle.phases == [Phase.REFUSED, Phase.ROLLED_BACK]


def test_slots_that_keep_their_release_are_not_in_the_group() -> None:
    vehicle = Vehicle()
    vehicle.wish(speed=1)
    vehicle.prepared("sign")
    assert vehicle.phases == [Phase.SWITCHING, Phase.IDLE] and vehicle.stored["sign"].group == ()


def test_slots_that_are_not_asked_to_go_together_do_not_wait() -> None:
    vehicle = Vehicle()
    vehicle.wish(together=False)
    vehicle.prepared("sign")
    assert vehicle.phases == [Phase.SWITCHING, Phase.FETCHING]


# The store's side.


def test_the_store_confirms_no_part_of_a_group() -> None:
    stored = Vehicle().on_trial().stored
    with pytest.raises(ConflictError, match="together with speed"):
        states.confirm(stored, {"sign": ref("sign", 2)})


def test_a_start_too_many_of_one_ends_the_trial_of_all() -> None:
    stored = Vehicle().on_trial().stored
    for _ in range(states.STARTS_ON_TRIAL):
        stored = states.spend_try(stored, "sign")
    stored = states.spend_try(stored, "sign")
    assert [state.trial for state in stored.values()] == [None, None]
    assert [[outcome.result for outcome in state.outcomes] for state in stored.values()] == [["rolled-back"], []]


def test_trials_begin_together_or_not_at_all() -> None:
    stored = {slot: SlotState(confirmed=ref(slot, 1)) for slot in ("sign", "speed")}
    busy = states.begin_trials(stored, {"speed": Trial(ref("speed", 3), POLICY)})
    with pytest.raises(ConflictError):
        states.begin_trials(busy, {slot: Trial(ref(slot, 2), POLICY) for slot in stored})
    assert stored["sign"].trial is None


def test_an_outcome_of_one_is_not_recorded_for_the_others() -> None:
    stored = Vehicle().on_trial().stored
    after = states.take_back(stored, {"sign": Ended(ref("sign", 2), BROKEN)})
    assert after["sign"].outcomes == (Outcome(ref=ref("sign", 2), result="rolled-back", error=BROKEN),)
    assert after["speed"].outcomes == ()
