"""Channel pruning of the sign CNN: what is left is an ordinary, narrower network.

Single weights set to zero make these files neither smaller nor faster; whole channels do. A channel counts as much as
the next layer gets of it: the root mean square of its activation over training images, times the norm of the weights
that read it.
"""

import torch

from roadloop_cloud.training.compress.distil import tapped
from roadloop_models.zoo.sign_cnn import SignCnn


def prune_channels(model: SignCnn, channels: tuple[int, ...], images: torch.Tensor) -> SignCnn:
    """A copy of `model` that has kept the channels that count most, so many of each of the seven convolutions.

    `images`: standardized float32 [n, 32, 32, 3].
    """
    keep = [
        torch.topk(importance, count).indices.sort().values
        for importance, count in zip(channel_importance(model, images), channels, strict=True)
    ]
    linear = model.head[2]
    pruned = SignCnn(linear.out_features, channels=channels)
    pruned.load_state_dict(_chosen(model, keep))
    return pruned


def channel_importance(model: SignCnn, images: torch.Tensor) -> list[torch.Tensor]:
    """Of every channel of the seven convolutions, float32 [channels] each; a channel that is never active has 0."""
    names = tuple(name for name, module in model.named_modules() if module in model.blocks)
    model.eval()
    with torch.no_grad(), tapped(model, names) as active:
        model(images)
    readers = [block[0].weight for block in model.blocks[1:]]
    last = model.channels[-1]
    head = model.head[2].weight.view(-1, last, model.head[2].in_features // last).transpose(0, 1).flatten(1)
    norms = [weight.detach().transpose(0, 1).flatten(1).norm(dim=1) for weight in readers] + [head.detach().norm(dim=1)]
    return [active[name].square().mean((0, 2, 3)).sqrt() * norm for name, norm in zip(names, norms, strict=True)]


def _chosen(model: SignCnn, keep: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of the narrower network."""
    state = model.state_dict()
    chosen: dict[str, torch.Tensor] = {}
    names = [name for name, module in model.named_modules() if module in model.blocks]
    read = torch.arange(model.blocks[0][0].in_channels)
    for name, kept in zip(names, keep, strict=True):
        chosen[f"{name}.0.weight"] = state[f"{name}.0.weight"][kept][:, read]
        for field in ("weight", "bias", "running_mean", "running_var"):
            chosen[f"{name}.1.{field}"] = state[f"{name}.1.{field}"][kept]
        chosen[f"{name}.1.num_batches_tracked"] = state[f"{name}.1.num_batches_tracked"]
        read = kept
    weight = state["head.2.weight"]
    by_channel = weight.view(len(weight), model.channels[-1], -1)
    chosen["head.2.weight"] = by_channel[:, read].flatten(1)
    chosen["head.2.bias"] = state["head.2.bias"]
    return chosen
