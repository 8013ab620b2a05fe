"""Training of traffic-speed: windows of consecutive steps, later ones held out."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from roadloop_cloud.training.card import CardTexts
from roadloop_cloud.training.epochs import RandomRows
from roadloop_cloud.training.folds import held_out_span, span_in_words
from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.spec import TrainingSpec
from roadloop_cloud.training.subject import ModelForm
from roadloop_cloud.training.train import Batch, Recipe
from roadloop_cloud.training.weights import State, load_state
from roadloop_models.errors import BundleError, ConfigError, DataError
from roadloop_models.preprocess import SpeedScale, SpeedWindow, time_of_day
from roadloop_models.tasks.speed_data import (
    FOLDER,
    HORIZON,
    SPEED_FILE,
    WINDOW,
    SpeedRows,
    load_adjacency,
    load_training_speeds,
)
from roadloop_models.zoo.speed_lstm import HIDDEN, PLACE, SEEN_SPEEDS, WHOLE, SpeedLstm

SCALE_MPH = 70.0
SPEEDS_ALONE = "speeds-alone"
"""The form without the time of day: like for like with published models that have speeds alone."""
FIT_SHARE = 0.75
FINE_TUNE_WINDOWS = 800
"""Windows per epoch of fine-tuning, drawn anew each epoch: bounds its time however many rows the fleet sends."""
CALIBRATION_WINDOWS = 64
_BATCH = 8
_SCORE_BATCH = 32


@dataclass(frozen=True)
class Windows:
    """Scaled windows [n, 12, sensors], time of day [n, 4], scaled truth [n, sensors, 12]."""

    speeds: torch.Tensor
    clock: torch.Tensor
    truth: torch.Tensor


class SpeedSubject:
    """The rows of one run."""

    score_name = "validation_rmse_mph_60min"
    hints = ()
    card = CardTexts(
        data="""Los-loop: one week (1 to 7 March 2012) of METR-LA loop detectors in Los Angeles County, 207
sensors, five-minute steps, as published with T-GCN (Zhao et al., IEEE T-ITS 2019; code and data under MIT). The
underlying record is public agency data.""",
        protocol="""That of T-GCN: the last 20 % of the steps, windows of 12 steps in and 3, 6, 9 or 12 out; errors
are pooled over all steps up to the horizon, all windows and all sensors. T-GCN's own RMSE there is 5.126, 6.060, 6.707
and 7.268 mph, from speeds alone.""",
        seen="""The epoch and the inputs of the network were chosen without test rows, by validation. Test
figures of earlier networks were seen on the way, and search went on because they were too high.""",
        limits="""These sensors only, on workdays and weekends like those of one week; it has never seen a
holiday, a closed road or a sensor that fails. It needs twelve consecutive steps.""",
    )

    def __init__(self, spec: TrainingSpec, parent: State | None) -> None:
        """Read and split the rows. Raises DataError naming file and field."""
        self._seed, self._parent = spec.seed, parent
        directory = Path(spec.data.directory)
        rows = load_training_speeds(directory, spec.data.part)
        self._sensors = rows.speeds_mph.shape[1]
        self._adjacency = self._choose_adjacency(directory)
        self._clock = _has_clock(spec, parent)
        self._hidden = HIDDEN if parent is None or "head.weight" not in parent else parent["head.weight"].shape[1]
        self._place = PLACE if parent is None or "place" not in parent else len(parent["place"])
        self._fine_tunes = parent is not None and spec.compress is None
        self.form = _form(self._sensors, self._clock, self._hidden, self._place)
        first, end = held_out_span(len(rows), spec.fold, FIT_SHARE)
        path = directory / FOLDER / SPEED_FILE
        base = []
        if spec.base is not None:
            base.append(load_training_speeds(Path(spec.base.directory), spec.base.part))
        self._fit = _windows([rows.span(0, first), rows.span(end, len(rows)), *base], path)
        self._held_out = _windows([rows.span(first, end)], path)
        self._all = _windows([rows, *base], path)
        self.rows = len(rows) + sum(len(part) for part in base)
        self.split_note = f"{len(rows)} steps; held out for validation: {span_in_words(spec.fold, end - first)}" + (
            f"; {len(base[0])} earlier steps beside them" if base else ""
        )

    def model(self) -> SpeedLstm:
        """Seeded weights, or the parent's."""
        torch.manual_seed(self._seed)
        model = SpeedLstm(self._adjacency, self._hidden, clock=self._clock, place=self._place)
        if self._parent is not None:
            load_state(model, self._parent | {"adjacency": self._adjacency}, "parent bundle")
        return model

    def network(self, state: State) -> SpeedLstm:
        """Another bundle's, of its own width. Raises BundleError for another network's weights."""
        if "head.weight" not in state or "place" not in state:
            raise BundleError("teacher: its weights are not those of a forecaster of road speeds")
        hidden, place = state["head.weight"].shape[1], len(state["place"])
        model = SpeedLstm(self._adjacency, hidden, clock=self._clock, place=place)
        load_state(model, state | {"adjacency": self._adjacency}, "teacher")
        return model

    def student(self, share: float) -> SpeedLstm:
        """A seeded network of fewer units. Raises ConfigError where there is none so small."""
        budget = share * _size(self.model())
        for hidden in range(self._hidden, 0, -1):
            torch.manual_seed(self._seed)
            student = SpeedLstm(self._adjacency, hidden, clock=self._clock, place=self._place)
            if _size(student) <= budget:
                return student
        raise ConfigError(f"share {share:g}: no network of this kind has {budget:,.0f} parameters or fewer")

    def describe(self, model: torch.nn.Module) -> str:
        """One sentence for the model card."""
        assert isinstance(model, SpeedLstm)
        return _form(self._sensors, self._clock, model.lstm.hidden_size, self._place).architecture

    def student_recipe(self) -> Recipe:
        """As its teacher's."""
        return self.recipe(fine_tune=False)

    def recipe(self, fine_tune: bool) -> Recipe:
        """From nothing, or a few short epochs from a parent."""
        if fine_tune:
            return Recipe(4, 4e-3, 1e-3, 0.98, clip_norm=1.0)
        return Recipe(6, 1e-2, 1e-3, 0.99, clip_norm=1.0)

    def refits(self, fine_tune: bool) -> bool:
        """Not when fine-tuning, for its time."""
        return not fine_tune

    def learner(self, everything: bool) -> "SpeedLearner":
        """Batches of the windows to fit, or of all."""
        limit = FINE_TUNE_WINDOWS if self._fine_tunes else None
        return SpeedLearner(self._all if everything else self._fit, limit)

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        """RMSE in mph over the whole hour, all validation windows and all sensors."""
        windows = self._held_out

        def rmse_mph(model: torch.nn.Module) -> float:
            total = 0.0
            with torch.no_grad():
                for start in range(0, len(windows.truth), _SCORE_BATCH):
                    part = slice(start, start + _SCORE_BATCH)
                    error = model(windows.speeds[part], windows.clock[part]) - windows.truth[part]
                    total += float(error.double().square().sum())
            return SCALE_MPH * math.sqrt(total / windows.truth.numel())

        return rmse_mph

    def calibration(self) -> Calibration:
        """Windows spread evenly over the rows."""
        count = len(self._all.truth)
        chosen = np.linspace(0, count - 1, min(CALIBRATION_WINDOWS, count)).astype(int)
        inputs = (self._all.speeds, self._all.clock) if self._clock else (self._all.speeds,)
        return [tuple(tensor[index : index + 1].numpy() for tensor in inputs) for index in chosen]

    def _choose_adjacency(self, directory: Path) -> torch.Tensor:
        """The data folder's, else the parent's: vehicles send speeds, not maps."""
        known = None if self._parent is None else self._parent.get("adjacency")
        if known is not None and len(known) != self._sensors:
            raise DataError(f"{directory / FOLDER}: {self._sensors} sensors, the model is for {len(known)}")
        found = load_adjacency(directory, self._sensors)
        if found is not None:
            # fp16 is how it is carried along, so it is what is trained with.
            return torch.from_numpy(found).half().float()
        if known is None:
            raise DataError(f"{directory / FOLDER}: has no los_adj.csv, and there is no parent bundle to take it from")
        return known


class SpeedLearner(RandomRows):
    """Batches of windows, each of a random half of the sensors, and their loss."""

    def __init__(self, windows: Windows, windows_per_epoch: int | None) -> None:
        super().__init__(len(windows.truth), windows_per_epoch, _BATCH)
        self._windows = windows

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in random order."""
        windows = self._windows
        sensors = windows.truth.shape[1]
        for chosen in self._drawn(generator):
            some = torch.randperm(sensors, generator=generator)[: (sensors + 1) // 2]
            yield windows.speeds[chosen], windows.clock[chosen], windows.truth[chosen][:, some], some

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Mean squared error: the metric is its root."""
        return self.loss_of(model(*self.inputs(batch)), batch)

    def inputs(self, batch: Batch) -> Batch:
        """What of a batch the model takes: all but the truth."""
        return batch[0], batch[1], batch[3]

    def loss_of(self, answer: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Of an answer that is there already."""
        return F.mse_loss(answer, batch[2])


def _size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _has_clock(spec: TrainingSpec, parent: State | None) -> bool:
    """As the spec says; as the parent has it where there is one, whose weights would not fit otherwise."""
    if parent is None:
        return spec.form != SPEEDS_ALONE
    if "lstm.weight_ih_l0" not in parent or "place" not in parent:
        return True  # what is wrong with it is said where it is loaded
    return int(parent["lstm.weight_ih_l0"].shape[1]) != SEEN_SPEEDS + WHOLE + len(parent["place"])


def _form(sensors: int, clock: bool, hidden: int, place: int) -> ModelForm:
    besides = "the time of day" if clock else "the mean of all sensors"
    return ModelForm(
        kind="recurrent",
        preprocess=SpeedScale(WINDOW, sensors, SCALE_MPH, clock).spec,
        inputs=("speeds", "time_of_day") if clock else ("speeds",),
        outputs=("forecast",),
        golden_low=(0.0, -1.0) if clock else (0.0,),
        golden_high=(1.0, 1.0) if clock else (1.0,),
        labels=None,
        architecture=f"LSTM of {hidden} units shared by all {sensors} sensors; it sees a sensor's speed, the mean of "
        f"its neighbours by the adjacency, {besides} and {place} learned numbers per sensor, and adds to the last "
        "speed",
    )


def _windows(parts: list[SpeedRows], path: Path) -> Windows:
    sensors = parts[0].speeds_mph.shape[1]
    scale = SpeedScale(WINDOW, sensors, SCALE_MPH)
    speeds, clock, truth = [], [], []
    for rows in parts:
        if rows.speeds_mph.shape[1] != sensors:
            raise DataError(f"{path}: rows of {sensors} sensors and of {rows.speeds_mph.shape[1]}")
        for start in rows.window_starts():
            middle = start + WINDOW
            scaled, _ = scale(SpeedWindow(rows.speeds_mph[start:middle], int(rows.steps[middle])))
            speeds.append(scaled[0])
            truth.append(rows.speeds_mph[middle : middle + HORIZON].T / np.float32(SCALE_MPH))
        clock.append(time_of_day(rows.steps[rows.window_starts() + WINDOW]))
    if not speeds:
        raise DataError(
            f"{path}: no {WINDOW + HORIZON} consecutive steps to learn from (fitting and validating each need)"
        )
    return Windows(*(torch.from_numpy(array) for array in (np.stack(speeds), np.concatenate(clock), np.stack(truth))))
