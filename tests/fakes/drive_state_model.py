"""A `drive-state` model without a file: it answers what the test says, and remembers what it was shown."""

from pathlib import Path

import numpy as np

from roadloop_agent.drive.pipeline import Model
from roadloop_models.bundle import Bundle, GoldenSpec, Manifest, TensorSpec, Variant
from roadloop_models.drive_state.decision import OUTPUTS, STATES, ReadAnswers
from roadloop_models.drive_state.signals import COUNT
from roadloop_models.drive_state.window import FEATURES, ROWS, STEP_ROWS, ObdWindow
from roadloop_models.runners import FloatArray

INPUTS = (TensorSpec("steps", (1, ROWS // STEP_ROWS, FEATURES * COUNT), "float32"),)
_SHAPES = ((1, len(STATES)), (1, 1), (1, 2 * COUNT), (1, 2 * COUNT))
VARIANT = Variant(
    "onnx",
    "int8",
    "model.onnx",
    INPUTS,
    tuple(TensorSpec(name, shape, "float32") for name, shape in zip(OUTPUTS, _SHAPES, strict=True)),
    0.0,
)
BUNDLE = Bundle(
    Path("nowhere"),
    Manifest(
        format=1,
        task="drive-state",
        version="fake-1",
        min_agent_version="0.1.0",
        files=(),
        variants=(VARIANT,),
        preprocess=ObdWindow().spec,
        golden=GoldenSpec(seed=0, count=1, low=(-1.0,), high=(1.0,), file="golden.npz"),
    ),
    "0" * 64,
)


class FakeDriveRunner:
    """Answers logits `state`, `change` (scaled), `expected` and `limit` of every statistic."""

    def __init__(
        self,
        state: tuple[float, float, float] = (0.0, 1.0, 0.0),
        change: float = 0.0,
        expected: float = 0.0,
        limit: float = 0.0,
    ) -> None:
        self._outputs = tuple(
            np.broadcast_to(np.asarray(value, dtype=np.float32), shape)
            for value, shape in zip((state, change, expected, limit), _SHAPES, strict=True)
        )
        self.shown: list[FloatArray] = []

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return VARIANT.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return VARIANT.outputs

    @property
    def providers(self) -> tuple[str, ...]:
        return ("fake",)

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        assert [array.shape for array in inputs] == [spec.shape for spec in VARIANT.inputs]
        self.shown.append(inputs[0])
        return self._outputs

    def close(self) -> None:
        pass


def fake_drive_model(runner: FakeDriveRunner) -> Model:
    """Made ready to drive."""
    return Model(None, BUNDLE, VARIANT, runner, ObdWindow(), ReadAnswers())
