"""The drift LSTM: from an odometer's last seconds to the error of its speed, and how sure that is."""

import torch
from torch import nn

_FIRST_GAIN = 3.0
"""Changes of speed are small beside their channel's range; larger first weights make the LSTM notice sooner."""


class DriftLstm(nn.Module):  # type: ignore[misc]
    """Channels of a trace float32 [n, window, 3] -> float32 [n, 2] (see `localization/trace.py` for both).

    The last layer begins at zero, so that an untrained network corrects nothing.
    """

    def __init__(self, channels: int = 3, hidden: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.lstm.weight_ih_l0 *= _FIRST_GAIN
            self.lstm.bias_ih_l0[hidden : 2 * hidden] = 1.0  # remember, until taught to forget

    def forward(self, traces: torch.Tensor) -> torch.Tensor:
        """Correction and logarithm of density of a batch, in the units of the bundle's postprocessing."""
        state = self.lstm(traces)[0][:, -1]
        answer: torch.Tensor = self.head(self.dropout(state))
        return answer
