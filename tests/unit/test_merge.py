"""One network of several: its answer is the mean of theirs."""

import pytest
import torch

from roadloop_cloud.training.merge import merge_speed_lstms
from roadloop_models.errors import BundleError
from roadloop_models.zoo.speed_lstm import SpeedLstm

SENSORS = 5


def network(seed: int, hidden: int = 6, clock: bool = True, neighbours: float = 0.5) -> SpeedLstm:
    torch.manual_seed(seed)
    made = SpeedLstm(torch.eye(SENSORS) + neighbours * torch.ones(SENSORS, SENSORS), hidden, clock=clock)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    made.eval()
    return made


@pytest.mark.parametrize("clock", [True, False])
def test_the_answer_is_the_mean_and_merged_networks_merge_again(clock: bool) -> None:
    members = [network(seed, hidden, clock) for seed, hidden in ((1, 6), (2, 6), (3, 4))]
    state = merge_speed_lstms([member.state_dict() for member in members])
    merged = SpeedLstm(state["adjacency"], 16, clock=clock, place=12)
    merged.load_state_dict(state, strict=False)
    inputs = (torch.rand(3, 12, SENSORS), torch.rand(3, 4))
    with torch.no_grad():
        wanted = torch.stack([member(*inputs) for member in members]).mean(dim=0)
        torch.testing.assert_close(merged(*inputs), wanted, rtol=1e-5, atol=1e-5)
        some = torch.tensor([4, 1])
        torch.testing.assert_close(merged(*inputs, some), wanted[:, some], rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BundleError, match="lacks the time of day"):
        merge_speed_lstms([network(1).state_dict(), network(2, clock=False).state_dict()])
    with pytest.raises(BundleError, match="same sensors and neighbours"):
        merge_speed_lstms([network(1).state_dict(), network(2, neighbours=0.6).state_dict()])
    with pytest.raises(BundleError, match="only forecasters of road speeds"):
        merge_speed_lstms([{"fc.weight": torch.zeros(1)}] * 2)
