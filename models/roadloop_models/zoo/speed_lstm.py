"""The traffic-speed LSTM: one small LSTM shared by all sensors, which sees each sensor beside its neighbours."""

import torch
from torch import nn

from roadloop_models.preprocess import FloatArray


class SpeedLstm(nn.Module):  # type: ignore[misc]
    """(scaled speeds float32 [n, window, sensors], time of day [n, 4]) -> scaled speeds [n, sensors, horizon].

    What an LSTM step sees of a sensor is its own speed, the weighted mean of its neighbours, the same of their
    neighbours, the mean of all sensors, and the time of day. The means are one matrix product with a constant made
    from the adjacency. The answer is the last speed plus what the network adds to it, so that an untrained network
    already is the last-value forecast.
    """

    def __init__(self, adjacency: torch.Tensor, hidden: int = 40, horizon: int = 12) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.register_buffer("mixing", mixing_matrix(adjacency), persistent=False)
        self.lstm = nn.LSTM(4, hidden, batch_first=True)
        self.clock = nn.Linear(4, hidden)
        self.head = nn.Linear(hidden, horizon)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, speeds: torch.Tensor, time_of_day: torch.Tensor) -> torch.Tensor:
        """Forecasts of all sensors."""
        count, window, sensors = speeds.shape
        mixed = (speeds @ self.mixing).reshape(count, window, 3, sensors)
        seen = torch.cat([speeds.unsqueeze(2), mixed], dim=2)
        series = seen.permute(0, 3, 1, 2).reshape(count * sensors, window, 4)
        state = self.lstm(series)[0][:, -1].reshape(count, sensors, -1)
        added = self.head(torch.relu(state + self.clock(time_of_day).unsqueeze(1)))
        last = speeds[:, -1].unsqueeze(2)
        forecast: torch.Tensor = last + added
        return forecast


def mixing_matrix(adjacency: torch.Tensor) -> torch.Tensor:
    """Adjacency [s, s] -> [s, 3 s]: means over neighbours, over neighbours of neighbours, and over all sensors.

    A sensor is no neighbour of its own; one without neighbours gets the mean of none, 0.
    """
    sensors = len(adjacency)
    near = _rows_to_mean(adjacency * (1.0 - torch.eye(sensors)))
    return torch.cat([near.T, (near @ near).T, torch.full((sensors, sensors), 1.0 / sensors)], dim=1)


def _rows_to_mean(weights: torch.Tensor) -> torch.Tensor:
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-9), 0.0)


def adjacency_tensor(weights: FloatArray) -> torch.Tensor:
    """The adjacency as the model keeps it."""
    return torch.from_numpy(weights.copy())
