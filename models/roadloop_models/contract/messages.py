"""Messages on the channels. Unknown fields are tolerated, so that either side may be newer than the other.

Control messages are JSON, so that a person with `mosquitto_sub` can read them; those that carry bytes are MessagePack.
Sequence numbers count from 1, separately for each (vehicle, boot, stream); captured items use the stream `blob`, where
one number is one block.
"""

from typing import Annotated, Literal

import msgspec

from roadloop_models.bundle.manifest import Name, Sha256
from roadloop_models.campaigns.campaign import MAX_CAMPAIGNS, Campaign
from roadloop_models.contract.channels import BLOCK_BYTES

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Seq = Annotated[int, msgspec.Meta(ge=1, le=(1 << 53) - 1)]
Text = Annotated[str, msgspec.Meta(max_length=500)]
BlockNumber = Annotated[int, msgspec.Meta(ge=0, lt=10_000_000)]
Block = Annotated[bytes, msgspec.Meta(max_length=BLOCK_BYTES)]

BLOB_STREAM = "blob"
SKETCH_STREAM = "sketch"
"""Sketches are numbered in a stream too, so that the ledger knows each; like blocks they are no samples."""
NOT_SAMPLES = (BLOB_STREAM, SKETCH_STREAM)


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages; `v` rises when a field changes its meaning."""

    v: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1


class Status(Message, frozen=True, kw_only=True):
    """Whether a vehicle is connected. The offline one is the last will."""

    online: bool
    session: Annotated[str, msgspec.Meta(max_length=40)]
    boot: Count = 0
    agent_version: Annotated[str, msgspec.Meta(max_length=40)] = ""
    hardware: Annotated[str, msgspec.Meta(max_length=80)] = ""


class TelemetryBatch(Message, frozen=True, kw_only=True):
    """Consecutive samples of one stream. `columns` is what columns.py encodes: last_seq - first_seq + 1 rows."""

    boot: Count
    first_seq: Seq
    last_seq: Seq
    columns: bytes


class SeqRange(msgspec.Struct, frozen=True, array_like=True):
    """first..last, both included."""

    first: Seq
    last: Seq


class LostRange(msgspec.Struct, frozen=True, kw_only=True):
    """Samples that the vehicle gave up, and why."""

    boot: Count
    stream: Name
    first_seq: Seq
    last_seq: Seq
    reason: Annotated[str, msgspec.Meta(max_length=40)]


class Lost(Message, frozen=True, kw_only=True):
    """Repeated until the cursor covers the ranges."""

    ranges: Annotated[tuple[LostRange, ...], msgspec.Meta(max_length=256)]


class BlobItem(msgspec.Struct, frozen=True, kw_only=True):
    """A captured item: an image or a clip, and the decision sample that it belongs to."""

    sha256: Sha256
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=256 * 1024 * 1024)]
    media_type: Annotated[str, msgspec.Meta(max_length=40)]
    task: Name
    about_stream: Name
    about_seq: Seq
    t_ms: int
    campaign: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Which campaign wanted it; empty: the slot's own capture policy."""


class BlobBlock(Message, frozen=True, kw_only=True):
    """Block `n` (in the topic) of an item, numbered `seq` in the stream `blob`."""

    boot: Count
    seq: Seq
    item: BlobItem
    data: Block


class SignalSketch(msgspec.Struct, frozen=True, kw_only=True):
    """How one signal was distributed over some decisions (sketches/sketch.py); those of the same bins add up."""

    name: Name
    rows: Count
    """Decisions in which it was known."""
    unknown: Count = 0
    total: float
    """Sum of the values."""
    counts: Annotated[tuple[Count, ...], msgspec.Meta(max_length=256)] = ()
    """By bin of the release's reference; empty where it has none."""
    kll: Annotated[bytes, msgspec.Meta(max_length=4096)] = b""


class Sketch(Message, frozen=True, kw_only=True):
    """The signals of one slot under one release from `from_ms` to `to_ms` (wall time), as distributions.

    `seq` counts in the stream `sketch` of that boot.
    """

    boot: Count
    seq: Seq
    slot: Name
    ref: "ReleaseRef"
    from_ms: int
    to_ms: int
    decisions: Count
    signals: Annotated[tuple[SignalSketch, ...], msgspec.Meta(max_length=32)]


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An error of the catalogue, as reported."""

    code: Annotated[str, msgspec.Meta(max_length=40)]
    detail: Text


UpdateState = Literal[
    "idle", "fetching", "testing", "installing", "ready", "trial", "rolled-back", "refused", "waiting"
]


class ReleaseRef(msgspec.Struct, frozen=True, kw_only=True):
    """A release, named by its number and pinned by its manifest."""

    task: Name
    release: Annotated[int, msgspec.Meta(ge=1)]
    version: Name
    manifest_sha256: Sha256


LOG_RATIO_MAX = 3.0
"""About twenty times: a sequential test of a mean needs values that are bounded."""


class ShadowReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a candidate did beside the incumbent so far, as sums: those of several vehicles and times add up.

    A frame counts where both decided about it. `skipped` frames were not given to the candidate, to keep its budget.
    """

    ref: ReleaseRef
    state: Literal["loading", "running", "paused", "refused"]
    error: ErrorInfo | None = None
    frames: Count = 0
    disagreed: Count = 0
    """Frames that the candidate decided otherwise."""
    errors: Count = 0
    """Frames on which the candidate failed."""
    skipped: Count = 0
    confidence_frames: Count = 0
    confidence_delta_sum: float = 0.0
    """Of the candidate's confidence minus the incumbent's."""
    confidence_delta_square_sum: float = 0.0
    latency_log_ratio_sum: float = 0.0
    """Over the frames: the natural logarithm of the candidate's latency by the incumbent's, within +-LOG_RATIO_MAX."""
    latency_log_ratio_square_sum: float = 0.0
    latency_counts: Annotated[tuple[Count, ...], msgspec.Meta(max_length=32)] = ()
    """Place i: candidate's decisions that took 2^i up to 2^(i+1) microseconds."""
    incumbent_latency_counts: Annotated[tuple[Count, ...], msgspec.Meta(max_length=32)] = ()


class ReportedSlot(msgspec.Struct, frozen=True, kw_only=True):
    """What one slot runs now, and where the update towards `target` is.

    `state` is about the target: `idle` means nothing is wanted but what runs. `ready` is installed and waits for its
    moment (`waits_for`). `rolled-back` and `refused` are final for this target and carry the error. `blocks_done` /
    `blocks_total` are the progress of `fetching`.
    """

    task: Name
    running: ReleaseRef | None
    runtime: str
    precision: str
    providers: tuple[str, ...] = ()
    state: UpdateState
    target: ReleaseRef | None = None
    error: ErrorInfo | None = None
    blocks_done: Count = 0
    blocks_total: Count = 0
    trouble: ErrorInfo | None = None
    """What keeps the slot from deciding now, whatever it runs: its source, or frames that do not fit its model."""
    waits_for: Annotated[str, msgspec.Meta(max_length=80)] = ""
    """What `ready` waits for: the other slots, a maintenance window, a parked vehicle, somebody's consent."""
    shadow: ShadowReport | None = None


class CampaignsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which campaigns a vehicle runs."""

    version: Count = 0
    error: ErrorInfo | None = None
    """Why one of them is not run: this agent does not understand it."""


class Reported(Message, frozen=True, kw_only=True):
    """The vehicle's own word about itself."""

    boot: Count
    agent_version: Annotated[str, msgspec.Meta(max_length=40)]
    hardware: Annotated[str, msgspec.Meta(max_length=80)]
    desired_version: Count
    slots: dict[Name, ReportedSlot]
    spool_bytes: Count = 0
    spool_samples: Count = 0
    director_version: Count = 0
    """The newest assignment (version of the director's targets) that the vehicle has verified."""
    director_error: ErrorInfo | None = None
    """Why the last question to the director had no good answer."""
    campaigns: CampaignsReport = CampaignsReport()


class FetchRequest(Message, frozen=True, kw_only=True):
    """Asks for blocks of a file: `metadata/…` and `targets/…` of the image repository, `director/…` of its director.

    `sha256` names the content where it is known; `blocks` are first..last, both included, at most 256 blocks in all.
    """

    path: Annotated[str, msgspec.Meta(max_length=200)]
    sha256: Sha256 | None = None
    blocks: Annotated[tuple[tuple[BlockNumber, BlockNumber], ...], msgspec.Meta(min_length=1, max_length=64)]
    listening: bool = False
    """The vehicle hears `_all/file/{sha256}/+`: what others wait for too may be sent there, once."""


class FileBlock(Message, frozen=True, kw_only=True):
    """Block `n` (in the topic) of a file. Where the repository has no such file, `missing` is true and data empty."""

    path: Annotated[str, msgspec.Meta(max_length=200)]
    size_bytes: Count
    crc32: Count
    data: Block
    missing: bool = False


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
MinuteOfDay = Annotated[int, msgspec.Meta(ge=0, le=1440)]
Weekday = Annotated[int, msgspec.Meta(ge=1, le=7)]


class MaintenanceWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the vehicle's local time on some days (1: Monday).

    One that ends before it begins goes past midnight.
    """

    from_minute: MinuteOfDay
    to_minute: MinuteOfDay
    weekdays: Annotated[tuple[Weekday, ...], msgspec.Meta(min_length=1, max_length=7)] = (1, 2, 3, 4, 5, 6, 7)


class SwitchWhen(msgspec.Struct, frozen=True, kw_only=True):
    """When a vehicle may put an installed release on trial: all that is asked for must hold."""

    windows: Annotated[tuple[MaintenanceWindow, ...], msgspec.Meta(max_length=16)] = ()
    """In any of them; none: at any time."""
    parked: bool = False
    consent: bool = False
    """Somebody at the vehicle has said yes to this release."""


class ShadowPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate that runs beside the incumbent may cost."""

    max_cpu_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.2
    """Of one core; frames beyond it are skipped."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How a vehicle should go about an update."""

    health_window_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0
    max_error_rate: Share = 0.01
    max_latency_ratio: Annotated[float, msgspec.Meta(ge=1)] = 3.0
    """Latency on this vehicle, of the release to what runs: before the switch and in the health window."""
    max_disagreement: Share | None = None
    """The share of frames that a release which was in the shadow may have decided otherwise; None: any."""
    fetch_bytes_per_s: Annotated[int, msgspec.Meta(ge=1024)] | None = None
    transport: Literal["auto", "mqtt", "https"] = "auto"
    """How files come; `auto`: HTTPS for large ones where the vehicle knows an address, else MQTT."""
    metered: bool = True
    """Whether files may come over a metered link."""
    switch_when: SwitchWhen = SwitchWhen()


class Desired(Message, frozen=True, kw_only=True):
    """What every slot should run. A level, not an event: the newest version replaces all before."""

    version: Seq
    slots: dict[Name, ReleaseRef]
    policy: Policy = Policy()
    together: bool = False
    """The slots whose release changes switch together or not at all."""
    shadows: dict[Name, ReleaseRef] = {}
    """Slot -> candidate that runs beside what the slot runs, and decides nothing."""
    shadow_policy: ShadowPolicy = ShadowPolicy()


class StreamCursor(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud has accounted for (stored or declared lost): all of 1..prefix, and `ranges` beyond it."""

    boot: Count
    stream: Name
    prefix: Count
    ranges: Annotated[tuple[SeqRange, ...], msgspec.Meta(max_length=1024)] = ()


class Cursor(Message, frozen=True, kw_only=True):
    """The cloud's commitment. A new epoch says that its database was restored: all that is still held is sent again."""

    epoch: Annotated[int, msgspec.Meta(ge=1)]
    streams: Annotated[tuple[StreamCursor, ...], msgspec.Meta(max_length=1024)]


class Campaigns(Message, frozen=True, kw_only=True):
    """Every campaign that a vehicle runs. A level, not an event: the newest version replaces all before."""

    version: Annotated[int, msgspec.Meta(ge=1, le=(1 << 53) - 1)]
    campaigns: Annotated[tuple[Campaign, ...], msgspec.Meta(max_length=MAX_CAMPAIGNS)]


class Command(Message, frozen=True, kw_only=True):
    """A thing to do once, answered on `up/reply` under the same id."""

    id: Annotated[str, msgspec.Meta(max_length=40)]
    kind: Literal["ping", "resend", "report"]


class Reply(Message, frozen=True, kw_only=True):
    """The answer to a command."""

    id: Annotated[str, msgspec.Meta(max_length=40)]
    ok: bool
    detail: Text = ""
