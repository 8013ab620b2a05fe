"""The traffic-flow LSTM: one small LSTM that reads the counts of an hour beside the time of day."""

import torch
from torch import nn

CLOCK = 4
HIDDEN = 32


class FlowLstm(nn.Module):  # type: ignore[misc]
    """(scaled counts float32 [n, window], time of day [n, 4]) -> scaled count of the next step [n, 1].

    The answer is the mean of the counts plus what the network adds to it: arrivals are random, and the mean is steadier
    than the last count.
    """

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1 + CLOCK, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, flow: torch.Tensor, time_of_day: torch.Tensor) -> torch.Tensor:
        """Forecasts of the windows."""
        count, window = flow.shape
        clock = time_of_day.unsqueeze(1).expand(count, window, CLOCK)
        state = self.lstm(torch.cat([flow.unsqueeze(2), clock], dim=2))[0][:, -1]
        forecast: torch.Tensor = flow.mean(dim=1, keepdim=True) + self.head(state)
        return forecast
