"""The processes that train one model together: each draws batches of its own, and their gradients are averaged."""

from collections.abc import Iterable, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist

from roadloop_cloud.training.spec import Place

PATIENCE = timedelta(minutes=30)
"""How long one waits for the others: validation is done by the first alone."""
_SEED_STRIDE = 1_000_003


class Ranks:
    """One process of several; alone (the usual case) everything here does nothing."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        """For more than one, the process group must have been joined."""
        self.rank, self.count = rank, count

    @property
    def is_first(self) -> bool:
        """Whether this is the one that validates, saves, reports and writes the bundle."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """The run's seed for the first rank, another one for each of the others."""
        return seed + _SEED_STRIDE * self.rank

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give every rank the mean of all ranks' gradients."""
        if self.count > 1:
            self._average([parameter.grad for parameter in parameters if parameter.grad is not None])

    def average_states(self, *states: Mapping[str, torch.Tensor]) -> None:
        """Give every rank the mean of what differs beside the gradients: statistics of batch normalization."""
        if self.count > 1:
            self._average([value for state in states for value in state.values() if value.is_floating_point()])

    def first_says(self, value: float) -> float:
        """The first rank's value, on all ranks."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, src=0)
        return float(told)

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        """[ranks, ...]: one row of each rank."""
        if self.count == 1:
            return value.unsqueeze(0)
        rows = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(rows, value)
        return torch.stack(rows)

    def _average(self, tensors: list[torch.Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view(tensor.shape))


def join(place: Place) -> Ranks:
    """Wait until all workers are there.

    They meet over a file and not over a port: nothing listens but the connections among themselves.
    """
    if place.count == 1:
        return Ranks()
    store = dist.FileStore(place.meeting, place.count)
    dist.init_process_group("gloo", store=store, rank=place.rank, world_size=place.count, timeout=PATIENCE)
    return Ranks(place.rank, place.count)


def leave(ranks: Ranks) -> None:
    """Let go of the others."""
    if ranks.count > 1:
        dist.destroy_process_group()
