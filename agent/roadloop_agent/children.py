"""What the supervisor knows of a child, and what follows from it. Pure; all times are monotonic seconds."""

from dataclasses import dataclass, replace

RESTART_FIRST_S = 0.2
RESTART_MAX_S = 30.0
PROVED_S = 60.0
"""A child that lived this long is started again without waiting."""
START_GRACE_S = 60.0
WELL_S = 5.0
"""Without a beat for so long a child is not well: systemd's watchdog is no longer fed."""
STUCK_S = 20.0
"""Without a beat for so long a child is killed; at its start it has the grace to load its models."""


@dataclass(frozen=True)
class ChildState:
    """What is known of one child; `beat_s` is None until its first beat."""

    running: bool = False
    started_s: float = 0.0
    beat_s: float | None = None
    failures: int = 0
    due_s: float = 0.0


def started(state: ChildState, now_s: float) -> ChildState:
    """It was started."""
    return replace(state, running=True, started_s=now_s, beat_s=None)


def beaten(state: ChildState, now_s: float) -> ChildState:
    """It gave a sign of life."""
    return replace(state, beat_s=now_s)


def exited(state: ChildState, now_s: float) -> ChildState:
    """It ended: when it is due again. Each end soon after the start doubles the wait."""
    failures = 0 if now_s - state.started_s >= PROVED_S else state.failures + 1
    wait_s = 0.0 if failures == 0 else min(RESTART_MAX_S, RESTART_FIRST_S * 2.0 ** (failures - 1))
    return replace(state, running=False, beat_s=None, failures=failures, due_s=now_s + wait_s)


def stopped(now_s: float) -> ChildState:
    """It was ended on purpose: due at once, with a clean record."""
    return ChildState(due_s=now_s)


def slept(state: ChildState, gap_s: float) -> ChildState:
    """Nothing ran for `gap_s` (suspended, or all processes stopped): nobody could give a sign of life meanwhile."""
    beat_s = None if state.beat_s is None else state.beat_s + gap_s
    return replace(state, started_s=state.started_s + gap_s, beat_s=beat_s)


def is_due(state: ChildState, now_s: float) -> bool:
    """Whether to start it now."""
    return not state.running and now_s >= state.due_s


def is_stuck(state: ChildState, now_s: float) -> bool:
    """Whether it runs and makes no progress."""
    if not state.running:
        return False
    if state.beat_s is None:
        return now_s - state.started_s > START_GRACE_S
    return now_s - state.beat_s > STUCK_S


def is_well(state: ChildState, now_s: float) -> bool:
    """Whether it runs and makes progress."""
    return state.running and state.beat_s is not None and now_s - state.beat_s <= WELL_S
