"""The versions of this vehicle, and those that it came with."""

from functools import partial

from roadloop_agent.config import Config
from roadloop_agent.update.store import Store


def open_store(config: Config) -> Store:
    """The versions of this vehicle."""
    variants = {name: table.variant_key for name, table in config.profile.slots.items()}
    return Store(config.state_dir / "store", variants, config.directory)


def provision(config: Config) -> None:
    """Check the releases that the vehicle came with against their signatures and install them; idempotent."""
    # What checks signatures is large, and drive opens the store without it.
    from roadloop_agent.update.trust import verify_provisioned

    open_store(config).provision(partial(verify_provisioned, config.directory / "trust"))
