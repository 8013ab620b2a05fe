"""Several processes on this machine, under torch's own launcher, which starts all of them anew when one dies."""

import sys

from roadloop_cloud.training.executors.base import Launch

RESTARTS = 3


class TorchrunExecutor:
    """`torchrun` with everything on the loopback interface: neither launcher nor workers listen elsewhere."""

    def command(self, launch: Launch) -> list[str]:
        """See Executor."""
        meeting = launch.target.parent / f"meeting-{launch.token}"
        return [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", "1", "--nproc-per-node", str(launch.workers), "--max-restarts", str(RESTARTS)),
            # By default launcher and workers open a TCP store without authentication on all interfaces.
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", str(meeting), "--rdzv-conf", "store_type=file"),
            *("--rdzv-id", launch.token, "--local-addr", "127.0.0.1"),
            *("-m", "roadloop_cloud.training", "--attended", *launch.files),
        ]

    def environment(self, launch: Launch) -> dict[str, str]:
        """See Executor."""
        return {
            "GLOO_SOCKET_IFNAME": "lo",
            # Where launcher and workers share a store, workers that come back after a kill may wait for ever (3 of 5).
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
