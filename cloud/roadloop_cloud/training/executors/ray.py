"""Several processes on a Ray cluster: the one that RAY_ADDRESS names, or one that is made on this machine."""

import importlib.util
import os
import sys

from roadloop_cloud.training.executors.base import Launch
from roadloop_models.errors import RuntimeMissingError


class RayExecutor:
    """For who outgrows one machine. All nodes must see the same files under the same paths."""

    def command(self, launch: Launch) -> list[str]:
        """See Executor."""
        if importlib.util.find_spec("ray") is None:
            raise RuntimeMissingError("executor 'ray': Ray is not installed; pip install 'roadloop[ray]'")
        module = "roadloop_cloud.training.executors.ray_driver"
        return [sys.executable, "-m", module, *launch.files, str(launch.workers), str(launch.threads), launch.token]

    def environment(self, launch: Launch) -> dict[str, str]:
        """See Executor."""
        # Ray's own processes listen on all interfaces; on a cluster that is made here they ask for a token.
        own = {} if "RAY_ADDRESS" in os.environ else {"RAY_AUTH_MODE": "token"}
        return {"RAY_USAGE_STATS_ENABLED": "0"} | own
