"""What happens to the update of a slot, and what the machine answers it with."""

from dataclasses import dataclass
from typing import TypeAlias

from roadloop_agent.update.health import HealthSample
from roadloop_agent.update.state import SlotState
from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef

# Events. Those with `attempt` answer an action; an answer to an attempt that was given up is dropped.


@dataclass(frozen=True)
class Desired:
    """What the cloud wants in this slot, from a desired state of that version."""

    ref: ReleaseRef
    policy: Policy
    version: int


@dataclass(frozen=True)
class Progress:
    """Blocks of the release that are here, and in all."""

    attempt: int
    done: int
    total: int


@dataclass(frozen=True)
class FetchDone:
    """Everything is staged and verified."""

    attempt: int


@dataclass(frozen=True)
class TestPassed:
    """The staged bundle reproduces its golden vectors here."""

    __test__ = False
    attempt: int


@dataclass(frozen=True)
class Installed:
    """The version is durable in the store."""

    attempt: int


@dataclass(frozen=True)
class TrialBegun:
    """The store has the release on trial."""

    attempt: int


@dataclass(frozen=True)
class Stored:
    """What the store says after `Confirm` or `TakeBack`."""

    attempt: int
    stored: SlotState


@dataclass(frozen=True)
class Failed:
    """An action failed in a way that may pass. `jitter` in [0, 1) spreads the fleet's retries."""

    attempt: int
    error: ErrorInfo
    jitter: float = 0.0


@dataclass(frozen=True)
class Refused:
    """The release is not acceptable. `final`: the release itself is at fault, not what says so today."""

    attempt: int
    error: ErrorInfo
    final: bool = True


@dataclass(frozen=True)
class Switched:
    """Drive's answer to `Switch`; where not ok the slot goes on with what it ran."""

    ref: ReleaseRef
    ok: bool
    error: ErrorInfo | None = None


@dataclass(frozen=True)
class Health:
    """A health sample of the slot."""

    sample: HealthSample


@dataclass(frozen=True)
class DriveStarted:
    """Drive has started (or link has attached to it): what it runs, and what the store says now."""

    running: ReleaseRef | None
    stored: SlotState


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = (
    Desired
    | Progress
    | FetchDone
    | TestPassed
    | Installed
    | TrialBegun
    | Stored
    | Failed
    | Refused
    | Switched
    | Health
    | DriveStarted
    | Tick
)


# Actions. What is under way for an attempt that is no longer the state's is to be given up.


@dataclass(frozen=True)
class Fetch:
    """Refresh the metadata, verify the release, stage its files. Answer: FetchDone, Failed or Refused; Progress."""

    attempt: int
    ref: ReleaseRef
    policy: Policy


@dataclass(frozen=True)
class Test:
    """Run the golden vectors of the staged bundle, and time it beside the incumbent.

    Answer: TestPassed, Failed or Refused.
    """

    __test__ = False
    attempt: int
    ref: ReleaseRef
    incumbent: ReleaseRef
    max_latency_ratio: float


@dataclass(frozen=True)
class Install:
    """Make the staged bundle a version of the store. Answer: Installed, Failed or Refused."""

    attempt: int
    ref: ReleaseRef


@dataclass(frozen=True)
class BeginTrial:
    """Write the trial into the store. Answer: TrialBegun, Failed or Refused."""

    attempt: int
    ref: ReleaseRef
    policy: Policy


@dataclass(frozen=True)
class Switch:
    """Tell drive to run an installed release. Answer: Switched, or none."""

    ref: ReleaseRef


@dataclass(frozen=True)
class Confirm:
    """End the trial well. Answer: Stored or Failed."""

    attempt: int
    ref: ReleaseRef


@dataclass(frozen=True)
class TakeBack:
    """End the trial; with an error the release is recorded as rolled back. Answer: Stored or Failed."""

    attempt: int
    ref: ReleaseRef
    error: ErrorInfo | None


@dataclass(frozen=True)
class RecordRefused:
    """Remember that the release is not acceptable. No answer."""

    ref: ReleaseRef
    error: ErrorInfo


Action: TypeAlias = Fetch | Test | Install | BeginTrial | Switch | Confirm | TakeBack | RecordRefused
