"""A folder of provisioning folders, as `roadloop vehicles add --count` writes it."""

from pathlib import Path

from roadloop_models.errors import ConfigError


def provisioned_folders(fleet: Path, vehicles: int | None) -> list[Path]:
    """The first so many vehicles' folders (None: all) by name. Raises ConfigError where there are fewer."""
    found = sorted(path.parent for path in fleet.glob("*/vehicle.toml"))
    if not found:
        raise ConfigError(f"{fleet}: no */vehicle.toml; 'roadloop vehicles add ID --count N' provisions vehicles")
    if vehicles is not None and len(found) < vehicles:
        raise ConfigError(f"{fleet}: {len(found)} vehicles are provisioned here, {vehicles} were asked for")
    return found[:vehicles]
