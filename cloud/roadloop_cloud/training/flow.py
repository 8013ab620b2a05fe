"""Training of traffic-flow: windows of consecutive counts, later days held out."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from roadloop_cloud.training.card import CardTexts
from roadloop_cloud.training.epochs import RandomRows
from roadloop_cloud.training.folds import held_out_span, span_in_words
from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.spec import TrainingSpec
from roadloop_cloud.training.subject import ModelForm
from roadloop_cloud.training.train import Batch, Recipe
from roadloop_cloud.training.weights import State, load_state
from roadloop_models.errors import DataError
from roadloop_models.preprocess import FlowScale, time_of_day
from roadloop_models.tasks.flow_data import FOLDER, TRAIN_FILE, WINDOW, FlowRows, load_training_flow
from roadloop_models.zoo.flow_lstm import FlowLstm

SCALE_VEH = 200.0
FIT_SHARE = 0.75
FINE_TUNE_WINDOWS = 8_000
"""Windows per epoch of fine-tuning, drawn anew each epoch: bounds its time however many rows the fleet sends."""
CALIBRATION_WINDOWS = 256
_BATCH = 64


@dataclass(frozen=True)
class Windows:
    """Scaled counts [n, 12], time of day [n, 4], scaled truth [n, 1]."""

    flow: torch.Tensor
    clock: torch.Tensor
    truth: torch.Tensor


class FlowSubject:
    """The rows of one run."""

    score_name = "validation_rmse_veh"
    form = ModelForm(
        kind="recurrent",
        preprocess=FlowScale(WINDOW, SCALE_VEH).spec,
        inputs=("flow", "time_of_day"),
        outputs=("forecast",),
        golden_low=(0.0, -1.0),
        golden_high=(1.0, 1.0),
        labels=None,
        architecture="LSTM of 32 units that sees twelve counts and the time of day and adds to their mean",
    )
    card = CardTexts(
        data="""PeMS (California Department of Transportation), one lane of one detector, vehicles per five minutes,
as published with github.com/xiaochus/TrafficFlowPrediction (MIT): 27 workdays of January and February 2016 to learn
from, 15 workdays from 4 March 2016 on to test with.""",
        protocol="""That of the repository: 12 counts in, the next one out, all 4,308 windows of the test file, those
across missing weekends too. It reports MAE 7.21 and RMSE 9.90 for its LSTM, 7.20 and 9.97 for its GRU, 7.06 and 9.60
for its stacked autoencoders, from the counts alone; here the time of day is an input too.""",
        seen="""Epoch, size and inputs of the network were chosen on held-out training days alone.""",
        limits="""One lane of one detector, on workdays of one winter: another detector needs training on its own
counts. It has never seen a weekend, a holiday or a closed lane, and it needs twelve consecutive counts.""",
    )

    def __init__(self, spec: TrainingSpec, parent: State | None) -> None:
        """Read and split the rows. Raises DataError naming file and field."""
        self._seed, self._parent = spec.seed, parent
        directory = Path(spec.data.directory)
        path = directory / FOLDER / TRAIN_FILE
        rows = load_training_flow(directory, spec.data.part)
        base = [] if spec.base is None else [load_training_flow(Path(spec.base.directory), spec.base.part)]
        first, end = held_out_span(len(rows), spec.fold, FIT_SHARE)
        self._fit = _windows([rows.span(0, first), rows.span(end, len(rows)), *base], path)
        self._held_out = _windows([rows.span(first, end)], path)
        self._all = _windows([rows, *base], path)
        self.rows = len(rows) + sum(len(part) for part in base)
        self.split_note = f"{len(rows)} steps; held out for validation: {span_in_words(spec.fold, end - first)}" + (
            f"; {len(base[0])} earlier steps beside them" if base else ""
        )

    def model(self) -> FlowLstm:
        """Seeded weights, or the parent's."""
        torch.manual_seed(self._seed)
        model = FlowLstm()
        if self._parent is not None:
            load_state(model, self._parent, "parent bundle")
        return model

    def recipe(self, fine_tune: bool) -> Recipe:
        """From nothing, or a few short epochs from a parent."""
        if fine_tune:
            return Recipe(6, 2e-3, 1e-3, 0.99, clip_norm=1.0)
        return Recipe(40, 1e-2, 1e-3, 0.99, clip_norm=1.0)

    def refits(self, fine_tune: bool) -> bool:
        """It takes seconds."""
        return True

    def learner(self, everything: bool) -> "FlowLearner":
        """Batches of the windows to fit, or of all."""
        limit = FINE_TUNE_WINDOWS if self._parent is not None else None
        return FlowLearner(self._all if everything else self._fit, limit)

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        """RMSE in vehicles over all validation windows."""
        windows = self._held_out

        def rmse_veh(model: torch.nn.Module) -> float:
            with torch.no_grad():
                error = model(windows.flow, windows.clock) - windows.truth
            return SCALE_VEH * math.sqrt(float(error.double().square().mean()))

        return rmse_veh

    def calibration(self) -> Calibration:
        """Windows spread evenly over the rows."""
        count = len(self._all.truth)
        chosen = np.linspace(0, count - 1, min(CALIBRATION_WINDOWS, count)).astype(int)
        return [
            (self._all.flow[index : index + 1].numpy(), self._all.clock[index : index + 1].numpy()) for index in chosen
        ]


class FlowLearner(RandomRows):
    """Batches of windows and their loss."""

    def __init__(self, windows: Windows, windows_per_epoch: int | None) -> None:
        super().__init__(len(windows.truth), windows_per_epoch, _BATCH)
        self._windows = windows

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in random order."""
        windows = self._windows
        for chosen in self._drawn(generator):
            yield windows.flow[chosen], windows.clock[chosen], windows.truth[chosen]

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Mean squared error: the metric is its root."""
        flow, clock, truth = batch
        loss: torch.Tensor = (model(flow, clock) - truth).square().mean()
        return loss


def _windows(parts: list[FlowRows], path: Path) -> Windows:
    flow, clock, truth = [], [], []
    for rows in parts:
        starts = rows.window_starts()
        scaled = rows.flow_veh / np.float32(SCALE_VEH)
        flow.append(scaled[starts[:, np.newaxis] + np.arange(WINDOW)])
        truth.append(scaled[starts + WINDOW][:, np.newaxis])
        clock.append(time_of_day(rows.steps[starts + WINDOW]))
    if not sum(len(part) for part in truth):
        raise DataError(f"{path}: no {WINDOW + 1} consecutive steps to learn from (fitting and validating each need)")
    return Windows(*(torch.from_numpy(np.concatenate(arrays)) for arrays in (flow, clock, truth)))
