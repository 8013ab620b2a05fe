"""The traffic-flow LSTM: a committee of small ones, whose mean is steadier than any of them."""

import torch
from torch import nn

CLOCK = 4


class FlowLstm(nn.Module):  # type: ignore[misc]
    """(scaled counts float32 [n, window], time of day [n, 4]) -> scaled count of the next step [n, 1].

    Each member reads the counts beside the time of day and adds what it finds to the mean of the counts, in which the
    arrivals' randomness is less than in the last one. Members differ by how they began; the answer is their mean.
    """

    def __init__(self, members: int = 4, hidden: int = 32) -> None:
        super().__init__()
        self.lstms = nn.ModuleList(nn.LSTM(1 + CLOCK, hidden, batch_first=True) for _ in range(members))
        self.heads = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(members))
        for head in self.heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(self, flow: torch.Tensor, time_of_day: torch.Tensor) -> torch.Tensor:
        """What the committee says."""
        answer: torch.Tensor = self.each(flow, time_of_day).mean(dim=1, keepdim=True)
        return answer

    def each(self, flow: torch.Tensor, time_of_day: torch.Tensor) -> torch.Tensor:
        """What each member says: [n, members]. They learn from their own errors, or they would lean on each other."""
        count, window = flow.shape
        clock = time_of_day.unsqueeze(1).expand(count, window, CLOCK)
        series = torch.cat([flow.unsqueeze(2), clock], dim=2)
        added = [head(lstm(series)[0][:, -1]) for lstm, head in zip(self.lstms, self.heads, strict=True)]
        return flow.mean(dim=1, keepdim=True) + torch.cat(added, dim=1)
