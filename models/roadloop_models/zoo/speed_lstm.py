"""The traffic-speed LSTM: one small LSTM shared by all sensors, which sees each sensor beside its neighbours."""

import torch
import torch.nn.functional as F
from torch import nn

SEEN_SPEEDS = 2
CLOCK = 4
WHOLE = 1
"""Without the time of day: the mean of all sensors, which tells the rush hour from the night."""
PLACE = 4
HIDDEN = 40
_FIRST_GAIN = 4.0
"""Scaled speeds vary by about 0.2 only; larger first weights make the LSTM notice sooner."""


class SpeedLstm(nn.Module):  # type: ignore[misc]
    """(scaled speeds float32 [n, window, sensors], time of day [n, 4]) -> scaled speeds [n, sensors, horizon].

    Without `clock` it takes the speeds alone, and sees the mean of all sensors in place of the time of day.

    What an LSTM step sees of a sensor is its own speed, the weighted mean of its neighbours, the time of day, and a few
    learned numbers that say what kind of place the sensor stands at (they know where jams come back at which hour,
    and are worth most at the longest horizon). The mean is a matrix product with a constant made from the adjacency.
    The answer is the last speed plus what the network adds to it, so that an untrained network already is the
    last-value forecast.
    """

    def __init__(
        self,
        adjacency: torch.Tensor,
        hidden: int = HIDDEN,
        horizon: int = 12,
        clock: bool = True,
        place: int = PLACE,
    ) -> None:
        super().__init__()
        self.clock = clock
        self.register_buffer("adjacency", adjacency)
        self.register_buffer("near", neighbour_mean(adjacency), persistent=False)
        if not clock:
            self.register_buffer("all", torch.full((WHOLE, len(adjacency)), 1.0 / len(adjacency)), persistent=False)
        self.place = nn.Parameter(0.1 * torch.randn(place, len(adjacency)))
        self.lstm = nn.LSTM(SEEN_SPEEDS + (CLOCK if clock else WHOLE) + place, hidden, batch_first=True)
        self.head = nn.Linear(hidden, horizon)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.lstm.weight_ih_l0[:, :SEEN_SPEEDS] *= _FIRST_GAIN

    def forward(
        self, speeds: torch.Tensor, time_of_day: torch.Tensor | None = None, chosen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Forecasts of all sensors, or (while training) of the chosen ones: indices [c] -> [n, c, horizon]."""
        count, window, sensors = speeds.shape
        # As a linear layer: the quantizers know these, a plain matrix product some of them leave in float32.
        seen = torch.stack([speeds, F.linear(speeds, self.near)], dim=2)
        features = [seen]
        if self.clock:
            assert time_of_day is not None
            features.append(time_of_day.view(count, 1, CLOCK, 1).expand(count, window, CLOCK, sensors))
        else:
            features.append(F.linear(speeds, self.all).unsqueeze(3).expand(count, window, WHOLE, sensors))
        features.append(self.place.expand(count, window, *self.place.shape))
        series = torch.cat(features, dim=2).permute(0, 3, 1, 2)
        last = speeds[:, -1]
        if chosen is not None:
            series, last, sensors = series[:, chosen], last[:, chosen], len(chosen)
        state = self.lstm(series.reshape(count * sensors, window, series.shape[3]))[0][:, -1]
        added = self.head(state).reshape(count, sensors, -1)
        forecast: torch.Tensor = last.unsqueeze(2) + added
        return forecast


def neighbour_mean(adjacency: torch.Tensor) -> torch.Tensor:
    """Adjacency [s, s], row = a sensor and its neighbours' weights -> [s, s] of weights that sum to 1 by row.

    A sensor is no neighbour of its own; one without neighbours gets the mean of none, 0.
    """
    weights = adjacency * (1.0 - torch.eye(len(adjacency)))
    total = weights.sum(dim=1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=1e-9), 0.0)
