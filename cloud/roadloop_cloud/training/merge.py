"""One network whose answer is the mean of several: the forecasters of road speeds, each with units of its own.

Networks that began differently err differently, and their mean errs less than they do. As one network it is quantized,
signed, driven and trained on like any other. Nothing is trained here.
"""

from collections.abc import Sequence

import torch

from roadloop_cloud.training.weights import State
from roadloop_models.errors import BundleError

_GATES = 4
_WEIGHTS = {"adjacency", "place", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "lstm.bias_hh_l0"} | {
    "head.weight",
    "head.bias",
}


def merge_speed_lstms(states: Sequence[State]) -> State:
    """The state of a `SpeedLstm` with all their units, place numbers and answers (each with its share).

    Units see the place numbers of their own network alone and none of another's units: those weights are 0. Raises
    BundleError where the states are not of such networks of equal inputs and adjacency.
    """
    first = states[0]
    for state in states:
        if set(state) != _WEIGHTS or not torch.equal(state["adjacency"], first["adjacency"]):
            raise BundleError("only forecasters of road speeds of the same sensors and neighbours can be merged")
        if _shared(state) != _shared(first):
            raise BundleError("only models that see the same inputs can be merged; one of these lacks the time of day")
    hidden = [state["head.weight"].shape[1] for state in states]
    places = [len(state["place"]) for state in states]
    shared, units = _shared(first), sum(hidden)
    seen, kept = torch.zeros(_GATES, units, shared + sum(places)), torch.zeros(_GATES, units, units)
    unit = place = 0
    for state, own_units, own_places in zip(states, hidden, places, strict=True):
        rows, columns = slice(unit, unit + own_units), slice(shared + place, shared + place + own_places)
        own = _by_gate(state, "lstm.weight_ih_l0")
        seen[:, rows, :shared], seen[:, rows, columns] = own[:, :, :shared], own[:, :, shared:]
        kept[:, rows, rows] = _by_gate(state, "lstm.weight_hh_l0")
        unit, place = unit + own_units, place + own_places
    biases = {
        name: torch.cat([_by_gate(state, name) for state in states], dim=1).reshape(-1)
        for name in ("lstm.bias_ih_l0", "lstm.bias_hh_l0")
    }
    return biases | {
        "adjacency": first["adjacency"],
        "place": torch.cat([state["place"] for state in states]),
        "lstm.weight_ih_l0": seen.reshape(_GATES * units, -1),
        "lstm.weight_hh_l0": kept.reshape(_GATES * units, -1),
        "head.weight": torch.cat([state["head.weight"] for state in states], dim=1) / len(states),
        "head.bias": torch.stack([state["head.bias"] for state in states]).mean(dim=0),
    }


def _by_gate(state: State, name: str) -> torch.Tensor:
    """PyTorch stacks the four gates of an LSTM: [4 x units, …] -> [4, units, …]."""
    return state[name].unflatten(0, (_GATES, -1))


def _shared(state: State) -> int:
    """How many inputs are not place numbers."""
    return int(state["lstm.weight_ih_l0"].shape[1]) - len(state["place"])
