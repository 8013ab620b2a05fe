"""Where the processes of a training run are started. All of them run the same function, `worker.run_worker`."""

from roadloop_cloud.training.executors.base import Executor, Launch
from roadloop_cloud.training.executors.local import LocalExecutor
from roadloop_cloud.training.executors.ray import RayExecutor
from roadloop_cloud.training.executors.torchrun import TorchrunExecutor
from roadloop_cloud.training.spec import ExecutorName

EXECUTORS: dict[ExecutorName, Executor] = {
    "local": LocalExecutor(),
    "torchrun": TorchrunExecutor(),
    "ray": RayExecutor(),
}

__all__ = ["EXECUTORS", "Executor", "Launch"]
