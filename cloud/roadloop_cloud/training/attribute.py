"""Integrated gradients of a model's training weights: `python -m roadloop_cloud.training.attribute FOLDER`.

Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks (ICML 2017): the gradient of the answer is averaged
on the straight way from a baseline to the input, by the midpoint rule, and multiplied by their difference. The
attributions of all inputs then add up to the change of the answer, which is checked. The baseline is the mean of
training inputs; for images it is 0, the grey that standardized images have where nothing is to be seen.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from roadloop_cloud.explain.attribution import INPUTS_FILE, RESULT_FILE, SPEC_FILE, AttributionSpec, Target
from roadloop_cloud.training.build import open_subject
from roadloop_cloud.training.spec import DataSource, TrainingSpec
from roadloop_cloud.training.subject import Subject
from roadloop_models.typed import from_json

Tensors = tuple[torch.Tensor, ...]


def main(arguments: list[str]) -> int:
    """Attribute what the folder's spec asks for."""
    folder = Path(arguments[0])
    spec = from_json((folder / SPEC_FILE).read_bytes(), AttributionSpec)
    with np.load(folder / INPUTS_FILE, allow_pickle=False) as archive:
        rows = [
            tuple(torch.from_numpy(archive[f"{row}/{place}"]) for place in range(spec.inputs))
            for row in range(len(spec.targets))
        ]
    torch.set_num_threads(1)
    data = DataSource(spec.data, "starter")
    subject, _ = open_subject(TrainingSpec(task=spec.task, version="explained", data=data, parent=spec.bundle))
    model = subject.model().eval()
    baseline = _baseline(subject)
    found: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    missed, changes = [], []
    for number, (inputs, target) in enumerate(zip(rows, spec.targets, strict=True)):
        attributions = integrated_gradients(model, baseline, inputs, target, spec.steps)
        change = _answer(model, inputs, target).item() - _answer(model, baseline, target).item()
        missed.append(abs(sum(float(one.double().sum()) for one in attributions) - change))
        changes.append(abs(change))
        found |= {f"{number}/{place}": one.numpy() for place, one in enumerate(attributions)}
    found["missed"] = np.array(missed, dtype=np.float32) / np.float32(max([1e-9, *changes]))
    np.savez(folder / RESULT_FILE, allow_pickle=False, **found)
    return 0


def integrated_gradients(
    model: torch.nn.Module, baseline: Tensors, inputs: Tensors, target: Target, steps: int
) -> Tensors:
    """Attributions of each input tensor, as large as it is."""
    sums = [torch.zeros_like(one) for one in inputs]
    for step in range(steps):
        share = (step + 0.5) / steps
        here = [
            (start + share * (end - start)).detach().requires_grad_()
            for start, end in zip(baseline, inputs, strict=True)
        ]
        gradients = torch.autograd.grad(_answer(model, tuple(here), target), here, allow_unused=True)
        sums = [
            total if gradient is None else total + gradient for total, gradient in zip(sums, gradients, strict=True)
        ]
    return tuple((end - start) * total / steps for start, end, total in zip(baseline, inputs, sums, strict=True))


def _answer(model: torch.nn.Module, inputs: Tensors, target: Target) -> torch.Tensor:
    outputs = model(*inputs)
    chosen: torch.Tensor = (outputs if isinstance(outputs, tuple) else (outputs,))[target.output]
    return chosen[(0, *target.place)]


def _baseline(subject: Subject) -> Tensors:
    rows = subject.calibration()
    if subject.form.kind == "conv":
        return tuple(torch.zeros_like(torch.from_numpy(one)) for one in rows[0])
    return tuple(torch.from_numpy(np.mean([row[place] for row in rows], axis=0)) for place in range(len(rows[0])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
