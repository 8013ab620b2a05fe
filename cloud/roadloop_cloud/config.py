"""The workspace's configuration, `roadloop.toml`: parsed once, and strict about what it does not know."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from roadloop_models.errors import ConfigError

CONFIG_NAME = "roadloop.toml"

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Ratio = Annotated[float, msgspec.Meta(ge=0, le=1)]
StructT = TypeVar("StructT", bound=msgspec.Struct)


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


class FetchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast the block server sends a file to one vehicle."""

    bytes_per_s: Annotated[int, msgspec.Meta(ge=1024)] = 4 * 1024 * 1024


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of roadloop.toml."""

    broker: BrokerConfig = BrokerConfig()
    database: DatabaseConfig = DatabaseConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    rollout: RolloutConfig = RolloutConfig()
    fetch: FetchConfig = FetchConfig()


def load_toml(path: Path, kind: type[StructT]) -> StructT:
    """Read a TOML file into frozen structs.

    Raises ConfigError naming the file and the field; for an unknown key also the nearest known one.
    """
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return convert_settings(raw, kind, str(path))


def convert_settings(raw: dict[str, Any], kind: type[StructT], where: str) -> StructT:
    """The same for tables that were read already; `where` begins the error."""
    refuse_unknown(raw, kind, where)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error


def refuse_unknown(raw: dict[str, Any], kind: type[msgspec.Struct], where: str, prefix: str = "") -> None:
    """Raise ConfigError for the first key that `kind` does not have, at any depth."""
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in raw.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.0)
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'; the nearest known one is '{prefix}{near[0]}'")
        nested = fields[key]
        if isinstance(value, dict) and isinstance(nested, type) and issubclass(nested, msgspec.Struct):
            refuse_unknown(value, nested, where, f"{prefix}{key}.")
