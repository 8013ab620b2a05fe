"""Whether the next generation of a task's model is due. Pure: what was seen and the time in, a decision out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from roadloop_cloud.loop.policy import LoopPolicy

MAX_DOUBLINGS = 4
"""The cool-down after generations that published nothing grows to at most sixteen times its length."""

Action = Literal["start", "wait", "rest"]
"""Begin a generation; there is a reason to, but not now; there is no reason to."""


@dataclass(frozen=True)
class Generation:
    """One turn of the loop, as its job tells it."""

    began: datetime
    ended: datetime | None
    """None: it runs, or waits to be run."""
    published: bool
    cpu_s: float
    delivered_bytes: int


@dataclass(frozen=True)
class Seen:
    """What a decision rests on."""

    enabled: datetime
    """Since when the loop is enabled."""
    generations: Sequence[Generation]
    """The oldest first."""
    asked: datetime | None
    """When a person asked for a generation that has not begun yet."""
    alarms: Sequence[str]
    """Of drift, raised since `since`; in words."""
    new_labels: int
    """Since `since`."""
    rollout: int | None
    """An active rollout of the task."""
    free_bytes: int


@dataclass(frozen=True)
class Decision:
    """What was decided and why; `until` is when it may change by itself, where that is known."""

    action: Action
    why: str
    """A word for machines: the trigger, or what is waited for."""
    detail: str
    until: datetime | None = None


def since(enabled: datetime, generations: Sequence[Generation]) -> datetime:
    """From when on alarms and labels are news: what came before, the last generation has learned from."""
    return generations[-1].began if generations else enabled


def decide(policy: LoopPolicy, seen: Seen, now: datetime) -> Decision:
    """A person's wish goes before the cool-down, but not before the budget: that one they can raise."""
    if seen.generations and seen.generations[-1].ended is None:
        return Decision("wait", "running", "the last generation has not ended")
    trigger = _trigger(policy, seen, now)
    if trigger is None:
        return _resting(policy, seen)
    if seen.rollout is not None:
        return Decision("wait", "rolling-out", f"rollout {seen.rollout} is on its way; {trigger.detail}")
    return (
        _over_budget(policy, seen, now)
        or _no_room(policy, seen)
        or (None if trigger.why == "person" else _cooling_down(policy, seen, now))
        or trigger
    )


def _trigger(policy: LoopPolicy, seen: Seen, now: datetime) -> Decision | None:
    triggers = policy.triggers
    if seen.asked is not None:
        return Decision("start", "person", "a person asked for it")
    if triggers.drift and seen.alarms:
        more = f" and {len(seen.alarms) - 1} more" if len(seen.alarms) > 1 else ""
        return Decision("start", "drift", f"{seen.alarms[0]}{more}")
    if triggers.new_labels is not None and seen.new_labels >= triggers.new_labels:
        return Decision("start", "labels", f"{seen.new_labels} new labels, {triggers.new_labels} are enough")
    if triggers.every_s is not None and now >= _scheduled(triggers.every_s, seen):
        return Decision("start", "schedule", f"none has begun since {since(seen.enabled, seen.generations):%F %T} UTC")
    return None


def _scheduled(every_s: float, seen: Seen) -> datetime:
    return since(seen.enabled, seen.generations) + timedelta(seconds=every_s)


def _resting(policy: LoopPolicy, seen: Seen) -> Decision:
    triggers = policy.triggers
    parts = ["no drift"] if triggers.drift else []
    if triggers.new_labels is not None:
        parts.append(f"{seen.new_labels} of {triggers.new_labels} new labels")
    until = None if triggers.every_s is None else _scheduled(triggers.every_s, seen)
    return Decision("rest", "no-trigger", ", ".join(parts) or "only time or a person begins one", until)


def _over_budget(policy: LoopPolicy, seen: Seen, now: datetime) -> Decision | None:
    budget = policy.budget
    period = timedelta(seconds=budget.period_s)
    counted = [generation for generation in seen.generations if generation.began > now - period]
    if not counted:
        return None
    spent = {
        "generations": (len(counted), budget.generations),
        "s of processor time": (sum(one.cpu_s for one in counted), budget.cpu_s),
        "bytes to vehicles": (sum(one.delivered_bytes for one in counted), budget.delivered_bytes),
    }
    for name, (used, limit) in spent.items():
        if limit is not None and used >= limit:
            text = f"{used:,.0f} of {limit:,.0f} {name} are spent in {budget.period_s / 86_400:g} days"
            return Decision("wait", "budget", text, counted[0].began + period)
    return None


def _no_room(policy: LoopPolicy, seen: Seen) -> Decision | None:
    if seen.free_bytes >= policy.min_free_bytes:
        return None
    return Decision("wait", "disk", f"{seen.free_bytes:,} bytes are free, {policy.min_free_bytes:,} are needed")


def _cooling_down(policy: LoopPolicy, seen: Seen, now: datetime) -> Decision | None:
    if not seen.generations:
        return None
    ended, fruitless = seen.generations[-1].ended, 0
    assert ended is not None
    for generation in reversed(seen.generations):
        if generation.published:
            break
        fruitless += 1
    until = ended + timedelta(seconds=policy.cool_down_s * 2 ** min(fruitless, MAX_DOUBLINGS))
    if now >= until:
        return None
    text = f"after {fruitless} that published nothing" if fruitless else "after the last one"
    return Decision("wait", "cool-down", f"{text}, until {until:%F %T} UTC", until)
