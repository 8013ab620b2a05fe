"""The update of one slot as a pure function: (state, event, now) -> (state, actions).

    idle -> fetching -> testing -> installing -> ready -> starting -> switching -> watching -> passed -> confirming
                 |          |           |          |                      |            |          |          |
              waiting    refused     refused    refused             taking-back <------+----------+        idle
                                                                          +-> returning -> rolled-back

Until `starting` nothing that runs is touched, so a newer wish simply replaces the work under way. From then on the
store has the release on trial, and the trial ends before anything else begins. When a release leaves `ready` and
`passed` is decided over all slots, by group.py; it also writes the store, once for all that go together. What happens
here is decided by one table, (phase, event) -> handler; a pair that is not in it changes nothing. Reporting is not in
it at all: a report that fails can change nothing that is installed.
"""

from roadloop_agent.update import preparing, trial
from roadloop_agent.update.events import (
    CompanionFailed,
    Desired,
    DriveStarted,
    Event,
    Failed,
    FetchDone,
    Health,
    Installed,
    Keep,
    Progress,
    Refused,
    Start,
    Stored,
    Switched,
    TestPassed,
    Tick,
    TrialBegun,
    Waits,
)
from roadloop_agent.update.phases import ENDED, ON_TRIAL, PREPARING, TRIED, Handler, Phase, SlotUpdate, Step


def step(state: SlotUpdate, event: Event, now_s: float) -> Step:
    """What follows from `event` at `now_s` (monotonic)."""
    attempt = getattr(event, "attempt", None)
    if attempt is not None and attempt != state.attempt:
        return state, ()
    handler = _TABLE.get((state.phase, type(event)))
    return (state, ()) if handler is None else handler(state, event, now_s)


_TABLE: dict[tuple[Phase, type], Handler] = {
    **{(phase, Switched): trial.switched_else for phase in Phase},
    **{(phase, Health): trial.learn for phase in Phase},
    **{(phase, DriveStarted): trial.drive_started for phase in Phase},
    **{(phase, DriveStarted): trial.drive_started_on_trial for phase in ON_TRIAL},
    **{(phase, Desired): preparing.desired_when_ended for phase in ENDED},
    **{(phase, Tick): trial.remind for phase in ENDED},
    **{(phase, Desired): preparing.desired_when_preparing for phase in (*PREPARING, Phase.READY)},
    **{(phase, Failed): preparing.failed for phase in (*PREPARING, Phase.STARTING)},
    **{(phase, Refused): preparing.refused for phase in (*PREPARING, Phase.READY, Phase.STARTING)},
    **{(phase, CompanionFailed): preparing.companion_failed for phase in (Phase.WAITING, *PREPARING, Phase.READY)},
    **{(phase, CompanionFailed): trial.companion_failed_on_trial for phase in TRIED},
    **{(phase, Desired): trial.desired_on_trial for phase in TRIED},
    (Phase.WAITING, Desired): preparing.desired_when_waiting,
    (Phase.WAITING, Tick): preparing.waited,
    (Phase.FETCHING, Progress): preparing.progress,
    (Phase.FETCHING, FetchDone): preparing.fetch_done,
    (Phase.TESTING, TestPassed): preparing.test_passed,
    (Phase.INSTALLING, Installed): preparing.installed,
    (Phase.READY, Waits): preparing.waits,
    (Phase.READY, Start): preparing.start,
    (Phase.STARTING, Desired): preparing.desired_later,
    (Phase.STARTING, TrialBegun): trial.trial_begun,
    (Phase.SWITCHING, Switched): trial.switched,
    (Phase.SWITCHING, Tick): trial.switch_again,
    (Phase.WATCHING, Health): trial.observe,
    (Phase.WATCHING, Tick): trial.window_tick,
    (Phase.PASSED, Health): trial.observe,
    (Phase.PASSED, Keep): trial.keep,
    (Phase.CONFIRMING, Desired): preparing.desired_later,
    (Phase.CONFIRMING, Stored): trial.stored,
    (Phase.CONFIRMING, Failed): trial.store_failed,
    (Phase.TAKING_BACK, Desired): preparing.desired_later,
    (Phase.TAKING_BACK, Stored): trial.stored,
    (Phase.TAKING_BACK, Failed): trial.store_failed,
    (Phase.RETURNING, Desired): preparing.desired_later,
    (Phase.RETURNING, Switched): trial.switched_back,
    (Phase.RETURNING, Tick): trial.switch_back_again,
    (Phase.RETURNING, DriveStarted): trial.drive_started_returning,
}
