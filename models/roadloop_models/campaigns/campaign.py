"""A campaign: which moments of a task are sent, how much around them, and what that may cost a day."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from roadloop_models.bundle.manifest import Name
from roadloop_models.campaigns.condition import MAX_CHARACTERS, Condition, parse_condition
from roadloop_models.campaigns.watched import NOVELTY, Watched, watched
from roadloop_models.errors import ConfigError
from roadloop_models.settings import read_settings

MAX_CAMPAIGNS = 16
"""On one vehicle."""
MAX_FRAMES = 64
MAX_CLIP_S = 120.0
MAX_ITEM_BYTES = 8 << 20
"""No larger image or clip leaves a vehicle."""

Frames = Annotated[int, msgspec.Meta(ge=0, le=MAX_FRAMES)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=MAX_CLIP_S)]


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """`[keep]`: what is sent with the moment that fires. Frames of a camera's task, seconds of a task of signals."""

    before_frames: Frames = 0
    after_frames: Frames = 0
    before_s: Seconds = 0.0
    after_s: Seconds = 0.0


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """`[budget]`: on each vehicle, for each slot of the task. A day is 24 hours of the vehicle's own count."""

    bytes_per_day: Annotated[int, msgspec.Meta(ge=1)]
    """The item that overdraws it is the last one of the day."""
    hits_per_day: Annotated[int, msgspec.Meta(ge=1)] = 1000


class Highlight(msgspec.Struct, frozen=True, kw_only=True):
    """`[highlight]`: of the moments that fulfil the condition only those that score best, against what came before."""

    by: Literal["uncertainty", "novelty"]
    share: Annotated[float, msgspec.Meta(gt=0, le=0.5)]


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign file; the same is sent to vehicles. Files refuse unknown keys, messages tolerate them."""

    name: Name
    task: Name
    budget: Budget
    when: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CHARACTERS)] = "True"
    """The condition; condition.py says in which language."""
    rest_frames: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    rest_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 0.0
    """After a hit there is no other for so long: frames that follow each other look alike."""
    keep: Keep = Keep()
    highlight: Highlight | None = None

    @property
    def before(self) -> float:
        """In the task's own measure: frames, or seconds of source time; one of the two is 0."""
        return self.keep.before_frames + self.keep.before_s

    @property
    def after(self) -> float:
        """As `before`."""
        return self.keep.after_frames + self.keep.after_s

    @property
    def rest(self) -> float:
        """As `before`."""
        return self.rest_frames + self.rest_s


class Understood(msgspec.Struct, frozen=True):
    """A campaign with its condition, checked."""

    campaign: Campaign
    condition: Condition
    watched: Watched

    @property
    def names(self) -> frozenset[str]:
        """What has to be known to decide."""
        by = self.campaign.highlight
        return self.condition.names | ({by.by} if by is not None else set())

    @property
    def needs_novelty(self) -> bool:
        """Whether novelty has to be computed for it."""
        return NOVELTY in self.names


def understand(campaign: Campaign, where: str = "") -> Understood:
    """Check what a campaign says. Raises ConfigError, beginning with `where`, naming the field."""
    prefix = f"{where}: " if where else ""
    about = watched(campaign.task, f"{prefix}task")
    condition = parse_condition(campaign.when, about.names, f"{prefix}when")
    wrong, right = ("_s", "_frames") if about.keeps == "frames" else ("_frames", "_s")
    given = {f"keep.before{wrong}", f"keep.after{wrong}", f"rest{wrong}"} & _set(campaign)
    if given:
        name = min(given)
        raise ConfigError(f"{prefix}{name}: {campaign.task} is measured in {name.removesuffix(wrong)}{right}")
    if about.keeps == "signals" and campaign.before + campaign.after == 0:
        raise ConfigError(f"{prefix}keep: a clip of signals needs before_s or after_s")
    return Understood(campaign, condition, about)


def read_campaign(path: Path) -> Campaign:
    """A campaign file. Raises ConfigError naming the file and the field."""
    campaign = read_settings(path, Campaign)
    understand(campaign, str(path))
    return campaign


def _set(campaign: Campaign) -> set[str]:
    keep, default = msgspec.structs.asdict(campaign.keep), Keep()
    fields = {f"keep.{name}" for name, value in keep.items() if value != getattr(default, name)}
    return fields | {name for name in ("rest_frames", "rest_s") if getattr(campaign, name)}
