"""What happens to the update of a slot, and what the machine answers it with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from roadloop_agent.update.health import HealthSample
from roadloop_agent.update.state import Ended, Ready, SlotState, Trial
from roadloop_models.contract.messages import ErrorInfo, Policy, ReleaseRef

# Events. Those with `attempt` answer an action; an answer to an attempt that was given up is dropped.


@dataclass(frozen=True)
class Desired:
    """What the cloud wants in this slot, from a desired state of that version.

    `group`: the slots that switch together or not at all, this one among them; empty: it goes by itself.
    """

    ref: ReleaseRef
    policy: Policy
    version: int
    group: tuple[str, ...] = ()


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
class Waits:
    """What an installed release waits for; group.py says so."""

    what: str


@dataclass(frozen=True)
class Start:
    """Nothing is waited for any more: the trial of these slots begins. Empty: of this one alone."""

    group: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keep:
    """Every slot on trial together with this one has passed its health window."""


@dataclass(frozen=True)
class CompanionFailed:
    """A slot that this one was to switch together with will not, or was taken back; no error: the cloud wants so."""

    slot: str
    error: ErrorInfo | None


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
    | Waits
    | Start
    | Keep
    | CompanionFailed
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
class Switch:
    """Tell drive to run an installed release. Answer: Switched, or none."""

    ref: ReleaseRef


@dataclass(frozen=True)
class RecordRefused:
    """Remember that the release is not acceptable. No answer."""

    ref: ReleaseRef
    error: ErrorInfo


SlotAction: TypeAlias = Fetch | Test | Install | Switch | RecordRefused


# Actions about slots that switch together (or about one that goes by itself): each is one write of the store, and each
# of its slots gets the answer.


@dataclass(frozen=True)
class BeginTrials:
    """Write the trials into the store. Answer: TrialBegun or Failed."""

    trials: Mapping[str, Trial]


@dataclass(frozen=True)
class Confirm:
    """End the trials well. Answer: Stored or Failed."""

    refs: Mapping[str, ReleaseRef]


@dataclass(frozen=True)
class TakeBack:
    """End the trials; a release with an error is recorded as rolled back. Answer: Stored or Failed."""

    ended: Mapping[str, Ended]


@dataclass(frozen=True)
class RememberReady:
    """Keep what waits for its moment over a restart, or forget it. No answer."""

    slot: str
    ready: Ready | None


GroupAction: TypeAlias = BeginTrials | Confirm | TakeBack | RememberReady
