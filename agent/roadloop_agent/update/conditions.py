"""May an installed release switch now? Pure: what the policy asks for, and what the vehicle knows of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from roadloop_agent.update.state import same_release
from roadloop_models.contract.messages import (
    ErrorInfo,
    MaintenanceWindow,
    Policy,
    ReleaseRef,
    ShadowReport,
    SwitchWhen,
)
from roadloop_models.errors import ConsentRefusedError, DisagreementError

ENOUGH_SHADOW_FRAMES = 50
"""Frames that both decided about, from which on the share of those decided otherwise counts."""

Asked: TypeAlias = tuple[str, ReleaseRef]
"""A slot, and the release that somebody is asked about."""


@dataclass(frozen=True)
class Facts:
    """What the vehicle knows. `local`: its local time; None: no time that can be believed. `parked`: None: unknown."""

    local: datetime | None = None
    parked: bool | None = None
    consents: Mapping[Asked, bool] = field(default_factory=dict)
    shadows: Mapping[str, ShadowReport] = field(default_factory=dict)
    """Slot -> how a candidate did in its shadow."""


Surroundings: TypeAlias = Callable[[], Facts]


def waits_for(when: SwitchWhen, slot: str, ref: ReleaseRef, facts: Facts) -> tuple[str, ...]:
    """What is missing, in words; empty where nothing is."""
    missing = []
    if when.windows and facts.local is None:
        missing.append("a clock that can be believed")
    elif when.windows and not any(is_within(window, facts.local) for window in when.windows if facts.local):
        missing.append("a maintenance window")
    if when.parked and facts.parked is None:
        missing.append("word whether it is parked")
    elif when.parked and not facts.parked:
        missing.append("a parked vehicle")
    if when.consent and not facts.consents.get((slot, ref), False):
        missing.append(CONSENT)
    return tuple(missing)


CONSENT = "consent"


def refusal(policy: Policy, slot: str, ref: ReleaseRef, facts: Facts) -> ErrorInfo | None:
    """Why the release must never switch here, if there is a reason."""
    if policy.switch_when.consent and facts.consents.get((slot, ref)) is False:
        return ErrorInfo(code=ConsentRefusedError.code, detail="somebody at the vehicle has said no")
    shadow = facts.shadows.get(slot)
    if shadow is None or not same_release(shadow.ref, ref) or shadow.frames < ENOUGH_SHADOW_FRAMES:
        return None
    share = shadow.disagreed / shadow.frames
    if policy.max_disagreement is None or share <= policy.max_disagreement:
        return None
    detail = (
        f"in the shadow it decided {share:.1%} of {shadow.frames} frames otherwise; "
        f"{policy.max_disagreement:.1%} are allowed"
    )
    return ErrorInfo(code=DisagreementError.code, detail=detail)


def is_within(window: MaintenanceWindow, local: datetime) -> bool:
    """Whether a local time is in the window. One past midnight belongs to the day on which it begins."""
    minute = local.hour * 60 + local.minute
    today, yesterday = local.isoweekday(), (local - timedelta(days=1)).isoweekday()
    if window.from_minute < window.to_minute:
        return today in window.weekdays and window.from_minute <= minute < window.to_minute
    return (today in window.weekdays and minute >= window.from_minute) or (
        yesterday in window.weekdays and minute < window.to_minute
    )
