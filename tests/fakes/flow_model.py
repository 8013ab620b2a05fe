"""A traffic-flow model whose answer is a function of the test: a bundle, and a runner that needs no file format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from roadloop_agent.drive.pipeline import Model
from roadloop_models.bundle import Bundle, GoldenSpec, Manifest, TensorSpec, Variant, write_bundle
from roadloop_models.bundle.golden import encode_golden
from roadloop_models.preprocess import FloatArray, FlowScale
from roadloop_models.tasks import get_task

WINDOW = 12
Answer = Callable[[FloatArray, FloatArray], FloatArray]
"""(scaled counts [1, 12], time of day [1, 4]) -> scaled count [1, 1]."""


class FlowRunner:
    """Answers by a function."""

    inputs = (TensorSpec("flow", (1, WINDOW), "float32"), TensorSpec("time_of_day", (1, 4), "float32"))
    outputs = (TensorSpec("forecast", (1, 1), "float32"),)
    providers = ("function",)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """Raises what the function raises."""
        flow, clock = inputs
        return (self._answer(flow, clock),)

    def close(self) -> None:
        """Nothing to release."""


def flow_model(directory: Path, answer: Answer) -> Model:
    """Its weights file says nothing; the runner is the function."""
    variant = Variant("onnx", "int8", "model.onnx", FlowRunner.inputs, FlowRunner.outputs, 1e-6)
    golden = GoldenSpec(seed=1, count=1, low=(0.0, -1.0), high=(1.0, 1.0), file="golden.npz")
    manifest = Manifest(
        format=1,
        task="traffic-flow",
        version="fake-1",
        min_agent_version="0.1.0",
        files=(),
        variants=(variant,),
        preprocess=FlowScale().spec,
        golden=golden,
    )
    outputs = encode_golden({"onnx-int8/forecast": np.zeros((1, 1, 1), np.float32)})
    bundle: Bundle = write_bundle(directory, manifest, {"model.onnx": b"a function", "golden.npz": outputs})
    task = get_task("traffic-flow")
    return Model(None, bundle, variant, FlowRunner(answer), task.preprocessor(manifest), task.postprocessor(bundle))
