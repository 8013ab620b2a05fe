"""What a compression is asked for. No torch here."""

from typing import Annotated, Literal

import msgspec

Method = Literal["distil", "prune", "qat", "quantize"]
METHODS: tuple[Method, ...] = ("distil", "prune", "qat", "quantize")
ROUNDABLE = ("traffic-sign",)
"""Tasks whose network can be trained quantization-aware: those of convolutions."""

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]


class Compression(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the parent bundle's network becomes a smaller one."""

    method: Method
    """`distil`: a narrower network learns from the parent. `prune`: the parent loses its least used channels and is
    trained on, with the whole parent as teacher. `qat`: the parent is trained on with its weights and activations
    rounded as int8 rounds them. `quantize`: nothing is trained; the parent's weights are quantized again."""
    share: Share = 0.25
    """Of the parent's parameters that a student or a pruned network may have at most."""
    temperature: Annotated[float, msgspec.Meta(ge=1, le=50)] = 4.0
    """By which the logits of teacher and student are divided before they are compared (Hinton et al. 2015)."""
    soft_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.8
    """Of the loss that is the difference to the teacher's answer; the rest is that to the label."""
    hint_weight: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """Of the difference between the two networks' attention maps at the end of each stage."""
    teachers: tuple[str, ...] = ()
    """Directories of more bundles of the task: the teacher's answer is then the mean of theirs and the parent's."""
