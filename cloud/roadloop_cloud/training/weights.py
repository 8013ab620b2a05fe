"""The float weights that a bundle carries for the next training run: an npz of fp16 arrays, never a pickle."""

import io
from pathlib import Path

import numpy as np
import torch

from roadloop_models.errors import BundleError

_COUNTER = "num_batches_tracked"
"""Batch normalization's step counter; nothing depends on it with a fixed momentum."""

State = dict[str, torch.Tensor]


def halve(state: State) -> State:
    """The state rounded to what an fp16 file can hold: what is exported is then exactly what is carried along."""
    return {name: value.half().float() for name, value in state.items() if not name.endswith(_COUNTER)}


def encode_weights(state: State) -> bytes:
    """The file's bytes; equal states give equal bytes."""
    buffer = io.BytesIO()
    arrays = {name: state[name].half().numpy() for name in sorted(state) if not name.endswith(_COUNTER)}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def decode_weights(path: Path) -> State:
    """Read the file. Raises BundleError where it is no npz of float arrays."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: not a file of training weights: {error}") from error
    for name, array in arrays.items():
        if array.dtype != np.float16 or not np.isfinite(array).all():
            raise BundleError(f"{path}: field '{name}' is {array.dtype}, expected finite float16")
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def load_state(model: torch.nn.Module, state: State, source: str) -> None:
    """Put a state into a model. Raises BundleError naming what does not fit."""
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BundleError(f"{source}: training weights do not fit the architecture: {error}") from error
    lost = [name for name in missing if not name.endswith(_COUNTER)]
    if lost or unexpected:
        raise BundleError(f"{source}: training weights lack {lost} and have {list(unexpected)} too much")
