"""The calling side of gradients: they need the training weights and torch, and so a process of training. None here."""

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from roadloop_models.bundle import Bundle
from roadloop_models.errors import BundleError, FailedError
from roadloop_models.runners import FloatArray

STEPS = 64
_SHOWN_CHARACTERS = 500


class Target(msgspec.Struct, frozen=True):
    """The number of an answer that is attributed: which output, and where in it after the batch axis."""

    output: int
    place: tuple[int, ...]


class AttributionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is asked for; the input tensors lie in `inputs.npz` beside it as `<row>/<input>`."""

    task: str
    bundle: str
    data: str
    """Training rows there give the baseline."""
    targets: tuple[Target, ...]
    inputs: int
    """How many input tensors the model has."""
    steps: int = STEPS


SPEC_FILE, INPUTS_FILE, RESULT_FILE = "attribution.json", "inputs.npz", "attributions.npz"


def attribute(
    bundle: Bundle, data_dir: Path, inputs: Sequence[tuple[FloatArray, ...]], targets: Sequence[Target], folder: Path
) -> tuple[list[list[FloatArray]], FloatArray]:
    """Integrated gradients of each row: (attributions of each input tensor, how far their sums miss).

    The latter is float32 [rows]: |sum of attributions - (answer - answer to the baseline)|, as a share of the largest
    such change; 0 is exact. Raises BundleError where the bundle carries no training weights, FailedError where the
    process fails. What it needs and answers lies in `folder`.
    """
    if bundle.manifest.training_weights is None:
        raise BundleError(f"{bundle.directory}: manifest.json: 'training_weights' is missing; there are no gradients")
    spec = AttributionSpec(
        task=bundle.manifest.task,
        bundle=str(bundle.directory),
        data=str(data_dir),
        targets=tuple(targets),
        inputs=len(inputs[0]),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC_FILE).write_bytes(msgspec.json.encode(spec))
    buffer = io.BytesIO()
    arrays = {f"{row}/{place}": tensor for row, tensors in enumerate(inputs) for place, tensor in enumerate(tensors)}
    np.savez(buffer, allow_pickle=False, **arrays)
    (folder / INPUTS_FILE).write_bytes(buffer.getvalue())
    command = [sys.executable, "-m", "roadloop_cloud.training.attribute", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise FailedError(
            f"attribution of {spec.task} ended with {done.returncode}: {done.stderr[-_SHOWN_CHARACTERS:]}"
        )
    with np.load(folder / RESULT_FILE, allow_pickle=False) as found:
        rows = [[found[f"{row}/{place}"] for place in range(spec.inputs)] for row in range(len(inputs))]
        missed: FloatArray = found["missed"]
    return rows, missed
