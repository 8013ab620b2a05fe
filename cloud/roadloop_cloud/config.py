"""The workspace's configuration, `roadloop.toml`: parsed once, and strict about what it does not know."""

from typing import Annotated, Literal

import msgspec

from roadloop_models.bundle.manifest import Name

CONFIG_NAME = "roadloop.toml"

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]


class BrokerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Vehicles and cloud processes reach the broker as `host`:`port`."""

    host: str = "127.0.0.1"
    port: Port = 8883
    bind: str | None = None
    """The address that it listens on, where that is not `host`."""
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    """The DNS names and addresses that the broker's certificate is good for."""


class DatabaseConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SQLAlchemy URL; a relative SQLite file lies in the workspace."""

    url: str = "sqlite:///state.sqlite"


class TelemetryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Delta tables: a folder of the workspace, or a URL such as s3://bucket/telemetry."""

    delta_dir: str = "telemetry"


class RolloutConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rollout uses where its creator says nothing."""

    waves: tuple[str, ...] = ("1", "50%", "100%")
    success_threshold: Ratio = 0.95
    error_threshold: Ratio = 0.1
    min_executed: Annotated[int, msgspec.Meta(ge=1)] = 1
    soak_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    health_window_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0
    on_failure: Literal["cohort", "all", "pause"] = "cohort"
    """Where too many fail: take it back from the cohort that suffers, from all, or only pause."""
    after_cohort: Literal["continue", "pause"] = "continue"
    approvals: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    """How many people other than its creator must approve each wave."""
    late_joiners: bool = True
    """Whether vehicles that match only later join the last wave."""
    cost_per_gb: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """What a gigabyte costs to a vehicle, in your currency: `rollout plan` shows the sum."""


class FetchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast files go out."""

    bytes_per_s: Annotated[int, msgspec.Meta(ge=1024)] = 4 * 1024 * 1024
    """To one vehicle."""
    together_bytes_per_s: Annotated[int, msgspec.Meta(ge=1024)] = 64 * 1024 * 1024
    """To all who hear one block at once: so much leaves the broker."""


class FilesConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTPS server of files, at the broker's names and under the same certificates."""

    port: Port | None = None
    """Without it there is none, and vehicles get everything over MQTT."""
    bind: str | None = None
    """The address that it listens on, where that is not the broker's."""


class DriftConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When change counts as drift, and when a vehicle is not believed."""

    look_s: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 3600.0
    """How often is looked: as often as vehicles send sketches."""
    window_looks: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 24
    """What is compared with a release's reference is the last so many looks."""
    false_alarms: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    """How many false alarms are expected at most in one window, over all that is watched."""
    least_ks: Ratio = 0.15
    """A smaller distance than this is nothing to act on: a model is surer of rows that it has learned, by about 0.1."""
    outlier_ks: Ratio = 0.5
    """How far from its cohort a vehicle must be to be quarantined."""
    keep_days: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    """How long sketches are kept."""


class SealingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tasks' releases are sealed where nobody says otherwise: only this fleet's vehicles can read the weights."""

    tasks: tuple[Name, ...] = ()


_NotNegative = Annotated[float, msgspec.Meta(ge=0)] | None
_OpenRatio = Annotated[float, msgspec.Meta(gt=0, lt=1)] | None


class GateConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[gate.<task>]`: what candidates are held to, where that is not the default (gate/bounds.py says of each)."""

    slice_worse: _NotNegative = None
    disturbed_worse: _NotNegative = None
    margin: _NotNegative = None
    confidence: _OpenRatio = None
    slice_confidence: _OpenRatio = None
    least_independent: Annotated[float, msgspec.Meta(ge=1)] | None = None
    ece_worse: _NotNegative = None
    latency_ratio: Annotated[float, msgspec.Meta(gt=0)] | None = None
    latency_slack_us: _NotNegative = None
    size_ratio: Annotated[float, msgspec.Meta(gt=0)] | None = None
    resamples: Annotated[int, msgspec.Meta(ge=100, le=100_000)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of roadloop.toml."""

    broker: BrokerConfig = BrokerConfig()
    database: DatabaseConfig = DatabaseConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    rollout: RolloutConfig = RolloutConfig()
    fetch: FetchConfig = FetchConfig()
    sealing: SealingConfig = SealingConfig()
    files: FilesConfig = FilesConfig()
    drift: DriftConfig = DriftConfig()
    gate: dict[Name, GateConfig] = {}
    """By task."""

    @property
    def files_url(self) -> str | None:
        """Where vehicles find the server of files; None where there is none."""
        if self.files.port is None:
            return None
        host = f"[{self.broker.host}]" if ":" in self.broker.host else self.broker.host
        return f"https://{host}:{self.files.port}"
