"""The drive-state LSTM: it reads a minute of OBD signals once whole, and once more without each of them."""

import torch
import torch.nn.functional as F
from torch import nn

STATES = 3
STATISTICS = 2
_ANSWERS = 2 * STATISTICS
"""Of each hidden signal: its expected statistics, and how far off each may be."""


class DriveStateLstm(nn.Module):  # type: ignore[misc]
    """Steps float32 [1, steps, features x signals] (`obd-window`) -> state, speed change, expected, limit.

    - state [1, 3]: logits of free, normal, jam
    - speed change [1, 1]: in 10 s, in the scaled unit of speed; an untrained network is the last-value forecast
    - expected [1, signals x 2]: level and movement of each signal, from all others
    - limit [1, signals x 2]: natural logarithm of the error that few sound windows exceed

    What a signal should be is asked of the others alone: a network that sees a stuck sensor believes it. So the window
    is read once whole and once for each signal, which is then hidden as if the vehicle did not have it.
    """

    def __init__(self, signals: int, features: int, width: int = 40, hidden: int = 64) -> None:
        super().__init__()
        self.signals = signals
        self.stem = nn.Linear(signals * features, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.state = nn.Linear(hidden, STATES)
        self.speed = nn.Linear(hidden, 1)
        self.check = nn.Linear(hidden, signals * _ANSWERS)
        nn.init.zeros_(self.speed.weight)
        nn.init.zeros_(self.speed.bias)
        shown = torch.cat([torch.ones(1, signals), 1.0 - torch.eye(signals)])
        self.register_buffer("shown", shown.repeat(1, features).unsqueeze(1), persistent=False)
        self.register_buffer("own", torch.eye(signals).unsqueeze(2), persistent=False)

    def forward(self, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """One window, as on the vehicle."""
        read = self.read(steps * self.shown)
        whole, partial = read[:1], read[1:]
        answers = (self.check(partial).view(self.signals, self.signals, _ANSWERS) * self.own).sum(dim=1)
        expected, limit = answers[:, :STATISTICS], answers[:, STATISTICS:]
        return self.state(whole), self.speed(whole), expected.reshape(1, -1), limit.reshape(1, -1)

    def read(self, steps: torch.Tensor) -> torch.Tensor:
        """[n, steps, features x signals] -> what the LSTM keeps of each window [n, hidden]."""
        kept: torch.Tensor = self.lstm(F.relu(self.stem(steps)))[0][:, -1]
        return kept

    def without(self, steps: torch.Tensor, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(expected [n, 2], limit [n, 2]) of one signal of each window, which is hidden: its index [n] int64."""
        answers = self.check(self.read(steps * self.shown[hidden + 1])).view(len(steps), self.signals, _ANSWERS)
        own = answers[torch.arange(len(steps)), hidden]
        return own[:, :STATISTICS], own[:, STATISTICS:]
