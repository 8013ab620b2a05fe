"""Where the update of one slot is, and what is known of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeAlias

from roadloop_agent.update.events import Desired, SlotAction
from roadloop_agent.update.health import Baseline, Window
from roadloop_agent.update.state import Outcome, Ready, SlotState
from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef, UpdateState


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
    READY = ("ready", "ready")
    STARTING = ("starting", "installing")
    SWITCHING = ("switching", "trial")
    WATCHING = ("watching", "trial")
    PASSED = ("passed", "trial")
    CONFIRMING = ("confirming", "trial")
    TAKING_BACK = ("taking-back", "trial")
    RETURNING = ("returning", "trial")
    ROLLED_BACK = ("rolled-back", "rolled-back")
    REFUSED = ("refused", "refused")


ENDED = (Phase.IDLE, Phase.ROLLED_BACK, Phase.REFUSED)
PREPARING = (Phase.FETCHING, Phase.TESTING, Phase.INSTALLING)
TRIED = (Phase.SWITCHING, Phase.WATCHING, Phase.PASSED)
"""On trial, and nothing is decided yet."""
ON_TRIAL = (*TRIED, Phase.CONFIRMING, Phase.TAKING_BACK)


@dataclass(frozen=True)
class SlotUpdate:
    """The state of one slot's update.

    `wanted` is the level that the cloud set last; `target` is what the phase is about. `group`: the slots that are on
    trial together with this one. `due_s` (monotonic) is when `waiting` ends, or an action that was not answered or has
    failed is repeated, `tries` how often it was. `unanswered`: drive was asked to switch to the target and has not said
    anything since; a request stays in the pipe, so drive may yet obey it. `remembered`: what the store was last told.
    """

    task: str
    confirmed: ReleaseRef
    phase: Phase = Phase.IDLE
    running: ReleaseRef | None = None
    wanted: Desired | None = None
    target: ReleaseRef | None = None
    policy: Policy = field(default_factory=Policy)
    group: tuple[str, ...] = ()
    waits_for: str = ""
    remembered: Ready | None = None
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


Step: TypeAlias = tuple[SlotUpdate, tuple[SlotAction, ...]]
Handler: TypeAlias = Callable[..., Step]
"""(state, event, now_s): each takes the one type of event that it is entered under, which the type cannot say."""


def recovered(task: str, stored: SlotState, desired_version: int) -> SlotUpdate:
    """The state to begin with after a restart.

    A trial goes on (drive is asked at the next tick), and what was ready waits on, unless the desired state that wanted
    it is not the newest any more; all else is idle.
    """
    state = SlotUpdate(task, stored.confirmed, outcomes=stored.outcomes, remembered=stored.ready)
    if stored.trial is not None:
        return replace(
            state, phase=Phase.SWITCHING, target=stored.trial, policy=stored.policy, group=stored.group, attempt=1
        )
    ready = stored.ready
    if ready is None or ready.version != desired_version:
        return state
    wanted = Desired(ready.ref, ready.policy, ready.version, ready.group)
    return replace(state, phase=Phase.READY, wanted=wanted, target=ready.ref, policy=ready.policy, attempt=1)
