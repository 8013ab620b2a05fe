"""The agent's configuration: vehicle.toml and profile.toml, read once into frozen structs.

Unknown keys are refused by name, with the nearest known one. All paths of vehicle.toml are relative to it, those of
profile.toml to profile.toml.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from roadloop_agent.hardware_config import CameraSource, ThermalTable, check_camera, check_thermal
from roadloop_agent.onboard import ON_BOARD, Feed, task_settings
from roadloop_agent.signals_config import MadeDriveSource, SignalsSource, check_signals, may_give
from roadloop_models.bundle.manifest import CPU_PROVIDERS, Name, Precision, Runtime
from roadloop_models.contract.channels import MAX_MESSAGE_BYTES, check_vehicle_id
from roadloop_models.errors import ConfigError, MessageError
from roadloop_models.settings import nearest, read_settings

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Rate = Annotated[float, msgspec.Meta(gt=0, le=10_000)]
Row = Annotated[int, msgspec.Meta(ge=0)]
Select = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,5}/[1-9][0-9]{0,4}\Z")]
_LEAST_BYTES_PER_DAY = 2 * MAX_MESSAGE_BYTES
"""A day must have room for any one message."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables of a configuration file."""


class VehicleTable(_Table, frozen=True, kw_only=True):
    """`[vehicle]`: who this is and where its files lie."""

    id: str
    profile: str = "profile.toml"
    state_dir: str = "state"


class BrokerTable(_Table, frozen=True, kw_only=True):
    """`[broker]`: where the cloud is reached, and with which certificate."""

    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = 8883
    ca: str = "identity/ca.crt"
    certificate: str = "identity/vehicle.crt"
    key: str = "identity/vehicle.key"
    keepalive_s: Annotated[int, msgspec.Meta(ge=5, le=3600)] = 30
    reconnect_min_s: Seconds = 0.5
    reconnect_max_s: Seconds = 60.0


class FilesTable(_Table, frozen=True, kw_only=True):
    """`[files]`: where files are had by HTTPS, with the certificate of `[broker]`."""

    url: str | None = None
    """`https://host:port`; without it everything comes over MQTT."""


class SpoolTable(_Table, frozen=True, kw_only=True):
    """`[spool]`: how much telemetry is kept, and for how long after the cloud has committed it."""

    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 256 << 20
    """On disk: spool.sqlite with its -wal and -shm."""
    retain_committed_s: Annotated[float, msgspec.Meta(ge=0)] = 86_400.0


class LinkLimits(_Table, frozen=True, kw_only=True):
    """`[network.on_unmetered]`: what goes over a link of that class."""

    bytes_per_day: Annotated[int, msgspec.Meta(ge=0)] = 0
    """MQTT packets in both directions, TLS not counted; 0: no limit, else at least 262144 (two large messages).
    Batches and captured items stop at it; what runs a fleet (status, reports, losses, updates) goes on, and counts."""
    sends: Literal["all", "highlights"] = "all"
    """`highlights`: summaries, and of each stream the batches and captured items of greatest value."""


class MeteredLimits(LinkLimits, frozen=True, kw_only=True):
    """`[network.on_metered]`: the same for links that cost by the byte."""

    sends: Literal["all", "highlights"] = "highlights"


class NetworkTable(_Table, frozen=True, kw_only=True):
    """`[network]`: which links are metered, and what they may carry."""

    metered: tuple[str, ...] = ("wwan*", "ppp*", "usb*")
    """Patterns of interface names: the class of a link is that of the interface of the route to the broker."""
    default_class: Literal["metered", "unmetered"] = "unmetered"
    """Where the interface cannot be told (a broker on this machine, a system that does not say)."""
    highlight_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    """Which share of each stream's batches, the most valuable, is a highlight."""
    on_metered: MeteredLimits = MeteredLimits()
    on_unmetered: LinkLimits = LinkLimits()


class TelemetryTable(_Table, frozen=True, kw_only=True):
    """`[telemetry]`: when a batch is sealed, and how often health is sampled and sketches are sent."""

    batch_samples: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100
    batch_age_s: Seconds = 5.0
    health_period_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 1.0
    sketch_period_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 3600.0
    """How often what drift is seen by is sent. The cloud counts a day as 24 of these."""


class MetricsTable(_Table, frozen=True, kw_only=True):
    """`[metrics]`: Prometheus text on the loopback address."""

    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] | None = None
    """Without it there are none: whoever is on the vehicle may read them."""


class ResultsTable(_Table, frozen=True, kw_only=True):
    """`[results]`: decisions for other software on the vehicle."""

    socket: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """The Unix socket; results.sock in the state folder where nothing is said. Its mode is 0660."""


class UpdatesTable(_Table, frozen=True, kw_only=True):
    """`[updates]`: when a release that waits for a parked vehicle may switch."""

    parked_after_s: Seconds = 180.0
    """How long the speed in the vehicle's signals must be zero."""


class PrivacyTable(_Table, frozen=True, kw_only=True):
    """`[privacy]`: what happens to what is captured before it leaves drive. Nothing from the cloud changes it."""

    detector: str | None = None
    """The folder of an object-detection bundle: what it finds of `labels` is made unreadable in every image, and
    where it cannot be used no image leaves. Without it images leave as they are."""
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = (
        "person",
        "bicycle",
        "car",
        "motorcycle",
        "bus",
        "truck",
    )
    position_m: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 100.0
    """Latitude and longitude are told to this grid: to campaigns, and in what they send; 0: as they are."""


class VehicleFile(_Table, frozen=True, kw_only=True):
    """vehicle.toml as a whole."""

    vehicle: VehicleTable
    broker: BrokerTable
    files: FilesTable = FilesTable()
    spool: SpoolTable = SpoolTable()
    network: NetworkTable = NetworkTable()
    telemetry: TelemetryTable = TelemetryTable()
    metrics: MetricsTable = MetricsTable()
    results: ResultsTable = ResultsTable()
    updates: UpdatesTable = UpdatesTable()
    privacy: PrivacyTable = PrivacyTable()


class _Source(_Table, frozen=True, kw_only=True, tag_field="kind"):
    """What all sources have that replay something or make it."""

    loop: bool = False
    """Begin again after the last frame."""
    pace: Literal["rate", "as-consumed"] = "rate"
    """`as-consumed` gives the next frame only when every slot has taken the last one: nothing is dropped."""
    rate_hz: Rate | None = None
    """Frames a second; without it the rate of the fastest slot that uses the source."""
    speed: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    """How many times faster than real time: it multiplies the rates of the source and of its slots."""


class ImagesSource(_Source, frozen=True, kw_only=True, tag="images"):
    """An image file, or a folder of them in the order of their names."""

    path: str


class VideoSource(_Source, frozen=True, kw_only=True, tag="video"):
    """A video file, frame by frame."""

    path: str


class NpzSource(_Source, frozen=True, kw_only=True, tag="npz"):
    """PNG images concatenated in one .npz (arrays png, offset and perhaps track). A frame's number is its row."""

    path: str
    first_row: Row = 0
    last_row: Row | None = None
    tracks: tuple[int, ...] | None = None
    select: Select | None = None
    """`k/n`: of n vehicles the k-th (from 0) replays these tracks; by row where the file has no tracks."""


class SpeedsCsvSource(_Source, frozen=True, kw_only=True, tag="speeds-csv"):
    """Speeds of all sensors, one 5-minute step a row, under a header of sensor ids. A frame's number is its row."""

    path: str
    first_row: Row = 0
    last_row: Row | None = None
    select: Select | None = None
    """`k/n`: of n consecutive stretches of these rows the k-th (from 0)."""


class FlowCsvSource(_Source, frozen=True, kw_only=True, tag="flow-csv"):
    """Counts of a road detector, one 5-minute step a row, as PeMS exports them. A frame's number is its step."""

    path: str
    first_row: Row = 0
    last_row: Row | None = None
    select: Select | None = None
    """`k/n`: of n consecutive stretches of these rows the k-th (from 0)."""


class MadeSignsSource(_Source, frozen=True, kw_only=True, tag="made-signs"):
    """Seeded drawings of signs, for a vehicle without a camera."""

    seed: int = 0
    count: Annotated[int, msgspec.Meta(ge=1)] = 1000


class MadeTrafficSource(_Source, frozen=True, kw_only=True, tag="made-traffic"):
    """A seeded, drawn clip of traffic seen by a fixed camera, for a place without one."""

    seed: int = 0
    count: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 500


class MadeSpeedsSource(_Source, frozen=True, kw_only=True, tag="made-speeds"):
    """Seeded speeds of 207 sensors with two rush hours a day, for a vehicle without road data."""

    seed: int = 0
    days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 7


class MadeFlowSource(_Source, frozen=True, kw_only=True, tag="made-flow"):
    """Seeded counts of a road detector with two rush hours on workdays, for a place without one."""

    seed: int = 0
    days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 14


SourceTable = (
    ImagesSource
    | VideoSource
    | CameraSource
    | NpzSource
    | SpeedsCsvSource
    | FlowCsvSource
    | SignalsSource
    | MadeSignsSource
    | MadeTrafficSource
    | MadeSpeedsSource
    | MadeFlowSource
    | MadeDriveSource
)


class CaptureTable(_Table, frozen=True, kw_only=True):
    """`[slots.X.capture]`: which frames are sent to the cloud."""

    below_confidence: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    every: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Every n-th frame whatever its confidence; 0: never by count."""
    max_bytes_per_s: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024


class SlotTable(_Table, frozen=True, kw_only=True):
    """`[slots.X]`: a task, where its frames come from, and with what it runs."""

    task: Name
    runtime: Runtime
    precision: Precision = "int8"
    providers: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = CPU_PROVIDERS
    """ONNX Runtime's execution providers in the order of preference; what the session really got is reported."""
    source: str
    rate_hz: Annotated[float, msgspec.Meta(ge=0, le=10_000)]
    """Frames a second at most; 0: paused, the model stays loaded and gets none."""
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    """Where not everything can run, the slots of lower priority give way first."""
    deadline_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How old a frame may be when it is decided about; without it any age. Not for sources paced `as-consumed`."""
    max_latency_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_model_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The cloud's gate lets no candidate pass that needs more (the time as measured there). The vehicle itself compares
    a candidate with what it runs."""
    capture: CaptureTable = CaptureTable()
    settings: dict[str, Any] = {}
    """What the task itself is told; task_settings.py says what it may be."""

    @property
    def variant_key(self) -> str:
        """The variant of a bundle that this slot runs (`onnx-int8`)."""
        return f"{self.runtime}-{self.precision}"


class ProfileFile(_Table, frozen=True, kw_only=True):
    """profile.toml as a whole: one vehicle hardware."""

    hardware: Annotated[str, msgspec.Meta(max_length=80)]
    sources: dict[str, SourceTable]
    slots: dict[Name, SlotTable]
    thermal: ThermalTable | None = None


FEEDS: dict[type[msgspec.Struct], Feed] = {
    CameraSource: "image",
    ImagesSource: "image",
    VideoSource: "image",
    NpzSource: "image",
    MadeSignsSource: "image",
    MadeTrafficSource: "image",
    SpeedsCsvSource: "speeds",
    MadeSpeedsSource: "speeds",
    FlowCsvSource: "flow",
    MadeFlowSource: "flow",
    SignalsSource: "signals",
    MadeDriveSource: "signals",
}
"""What the frames of each kind of source are."""


@dataclass(frozen=True)
class Config:
    """Both files, checked, with every path absolute."""

    path: Path
    vehicle_id: str
    broker: BrokerTable
    files: FilesTable
    spool: SpoolTable
    network: NetworkTable
    telemetry: TelemetryTable
    metrics: MetricsTable
    updates: UpdatesTable
    privacy: PrivacyTable
    results_path: Path
    """The Unix socket on which decisions are streamed."""
    profile_path: Path
    profile: ProfileFile
    state_dir: Path
    """Where the agent writes; it changes nothing else of the folder."""

    @property
    def directory(self) -> Path:
        """The provisioning folder: where vehicle.toml lies."""
        return self.path.parent

    @property
    def sealing_key_path(self) -> Path:
        """The private key that opens sealed releases."""
        return self.identity_path("identity/sealing.key")

    @property
    def spool_path(self) -> Path:
        """Where the telemetry waits."""
        return self.state_dir / "spool.sqlite"

    @property
    def campaigns_path(self) -> Path:
        """What the cloud wants to be sent: link writes it, drive reads it."""
        return self.state_dir / "campaigns.json"

    @property
    def campaign_budgets_path(self) -> Path:
        """What campaigns have spent today."""
        return self.state_dir / "campaign-budgets.json"

    @property
    def privacy_detector(self) -> Path | None:
        """Where the bundle lies that finds what must not leave."""
        return None if self.privacy.detector is None else self.directory / self.privacy.detector

    @property
    def cache_path(self) -> Path:
        """Where the small state lies that can be rebuilt."""
        return self.state_dir / "cache.sqlite"

    def source_path(self, source: SourceTable) -> Path | None:
        """Where a source's file lies; of one with several feeds the folder of them; None where it is made."""
        if isinstance(source, SignalsSource):
            return self.profile_path.parent
        path = getattr(source, "path", None)
        return None if path is None else self.profile_path.parent / path

    def wanted_signals(self, source: str) -> frozenset[str]:
        """The VSS paths that the slots of a source use."""
        tasks = [ON_BOARD[slot.task] for slot in self.profile.slots.values() if slot.source == source]
        return frozenset(path for task in tasks for path in (*task.needs, *task.uses))

    def identity_path(self, relative: str) -> Path:
        """Where a certificate or key of the provisioning folder lies."""
        return self.directory / relative


def load_config(path: Path) -> Config:
    """Read vehicle.toml and the profile that it names.

    Raises ConfigError naming file, field and the nearest known key.
    """
    path = path.resolve()
    vehicle = read_settings(path, VehicleFile)
    try:
        check_vehicle_id(vehicle.vehicle.id)
    except MessageError as error:
        raise ConfigError(f"{path}: vehicle.id: {error}") from error
    if vehicle.broker.reconnect_min_s > vehicle.broker.reconnect_max_s:
        raise ConfigError(f"{path}: broker.reconnect_min_s is above broker.reconnect_max_s")
    for name, limits in (("on_metered", vehicle.network.on_metered), ("on_unmetered", vehicle.network.on_unmetered)):
        if 0 < limits.bytes_per_day < _LEAST_BYTES_PER_DAY:
            raise ConfigError(f"{path}: network.{name}.bytes_per_day: 0 (no limit), or at least {_LEAST_BYTES_PER_DAY}")
    _check_files(f"{path}: files.url", vehicle.files)
    profile_path = path.parent / vehicle.vehicle.profile
    return Config(
        path=path,
        vehicle_id=vehicle.vehicle.id,
        broker=vehicle.broker,
        files=vehicle.files,
        spool=vehicle.spool,
        network=vehicle.network,
        telemetry=vehicle.telemetry,
        metrics=vehicle.metrics,
        updates=vehicle.updates,
        privacy=vehicle.privacy,
        results_path=path.parent / (vehicle.results.socket or f"{vehicle.vehicle.state_dir}/results.sock"),
        profile_path=profile_path,
        profile=load_profile(profile_path),
        state_dir=path.parent / vehicle.vehicle.state_dir,
    )


def load_profile(path: Path) -> ProfileFile:
    """Read a hardware profile and check that its slots and sources fit each other. Raises ConfigError."""
    profile = read_settings(path, ProfileFile)
    if not profile.slots:
        raise ConfigError(f"{path}: slots: at least one is needed")
    for name, source in profile.sources.items():
        _check_source(f"{path}: sources.{name}", source)
    for name, slot in profile.slots.items():
        where = f"{path}: slots.{name}"
        if slot.task not in ON_BOARD:
            raise ConfigError(f"{where}.task: '{slot.task}' is unknown{nearest(slot.task, ON_BOARD)}")
        if slot.runtime != "onnx" and slot.providers != CPU_PROVIDERS:
            raise ConfigError(f"{where}.providers: only ONNX Runtime has them, the slot's runtime is {slot.runtime}")
        task_settings(slot.task, slot.settings, f"{where}.settings")
        if slot.source not in profile.sources:
            near = nearest(slot.source, profile.sources)
            raise ConfigError(f"{where}.source: there is no [sources.{slot.source}]{near}")
        feeds = FEEDS[type(profile.sources[slot.source])]
        takes = ON_BOARD[slot.task].takes
        if feeds != takes:
            raise ConfigError(f"{where}.source: '{slot.source}' gives {feeds}, {slot.task} takes {takes}")
        _check_needs(f"{path}: sources.{slot.source}", profile.sources[slot.source], slot)
    if profile.thermal is not None:
        check_thermal(f"{path}: thermal", profile.thermal)
    return profile


def selected(select: str | None) -> tuple[int, int]:
    """`k/n` as numbers; without it everything: (0, 1)."""
    if select is None:
        return 0, 1
    part, of = select.split("/")
    return int(part), int(of)


def _check_needs(where: str, source: SourceTable, slot: SlotTable) -> None:
    if not isinstance(source, SignalsSource):
        return
    for needed in ON_BOARD[slot.task].needs:
        if not may_give(source, needed):
            raise ConfigError(f"{where}.signals: {slot.task} needs {needed}: say where it comes from")


def _check_files(where: str, files: FilesTable) -> None:
    parts = urlsplit(files.url or "https://none")
    try:
        good = (parts.scheme, bool(parts.hostname), parts.path) == ("https", True, "") and parts.port != 0
    except ValueError:  # a port beyond the last
        good = False
    if not good:
        raise ConfigError(f"{where}: '{files.url}': give it as https://host:port")


def _check_source(where: str, source: SourceTable) -> None:
    if isinstance(source, SignalsSource):
        check_signals(where, source)
    if isinstance(source, CameraSource):
        check_camera(where, source)
    part, of = selected(getattr(source, "select", None))
    if part >= of:
        raise ConfigError(f"{where}.select: '{part}/{of}': parts are counted from 0 to {of - 1}")
    last_row = getattr(source, "last_row", None)
    if last_row is not None and last_row < getattr(source, "first_row", 0):
        raise ConfigError(f"{where}.last_row is before first_row")
