"""One process on this machine."""

import sys

from roadloop_cloud.training.executors.base import Launch
from roadloop_models.errors import ConfigError


class LocalExecutor:
    """The usual one. A worker that dies ends the run; started again, it goes on after its last checkpoint."""

    def command(self, launch: Launch) -> list[str]:
        """See Executor."""
        if launch.workers != 1:
            raise ConfigError(f"{launch.workers} workers: the executor 'local' has one; choose 'torchrun' or 'ray'")
        return [sys.executable, "-m", "roadloop_cloud.training", "--attended", *launch.files]

    def environment(self, launch: Launch) -> dict[str, str]:
        """See Executor."""
        return {}
