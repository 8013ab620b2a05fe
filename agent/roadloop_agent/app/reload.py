"""Whether a running agent may take its configuration as it is now."""

from pathlib import Path

from roadloop_agent.app.store import open_store, provision
from roadloop_agent.app.tls import vehicle_tls
from roadloop_agent.config import Config
from roadloop_models.errors import ConfigError


def check_reload(config: Config, state_dir: Path) -> None:
    """Whether a running agent may go on with this configuration; provisions the slots that are new in it.

    Raises ConfigError where it may not, TrustError or BundleError where a new slot cannot be provisioned.
    """
    if config.state_dir != state_dir:
        raise ConfigError(f"{config.path}: vehicle.state_dir has changed: that takes a restart, not a reload")
    vehicle_tls(config)
    if not open_store(config).is_provisioned():
        provision(config)
