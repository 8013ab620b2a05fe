"""Training of drive-state: windows of OBD drives, later drives held out; three heads learn at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from roadloop_cloud.training.card import CardTexts
from roadloop_cloud.training.epochs import RandomRows
from roadloop_cloud.training.folds import check_fold
from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.spec import Fold, TrainingSpec
from roadloop_cloud.training.subject import ModelForm
from roadloop_cloud.training.train import Batch, Recipe
from roadloop_cloud.training.weights import State, load_state
from roadloop_models.drive_state.decision import OUTPUTS, STATES
from roadloop_models.drive_state.signals import COUNT, SIGNALS, SPEED
from roadloop_models.drive_state.window import (
    AHEAD_ROWS,
    FEATURES,
    ROWS,
    ObdWindow,
    scale_rows,
    statistics,
    step_features,
)
from roadloop_models.errors import DataError
from roadloop_models.tasks.obd_data import UNKNOWN_STATE, ObdDrive, by_mode, hold_out, load_training_drives
from roadloop_models.zoo.drive_state_lstm import DriveStateLstm

HELD_OUT_SHARE = 0.2
FIT_EVERY_ROWS = 4
SCORE_EVERY_ROWS = 10
FINE_TUNE_WINDOWS = 8_000
"""Windows per epoch of fine-tuning, drawn anew each epoch: bounds its time however many rows the fleet sends."""
CALIBRATION_WINDOWS = 128
_EPOCH_SHARE = 0.5
"""Of the windows, which overlap: an epoch draws so many."""
_BATCH = 128
_SCORE_BATCH = 512
_HIDDEN = 2
"""Signals that are hidden in turn of each window of a batch."""
_DROPPED = 0.1
"""Half of the windows lose each signal with this probability: a vehicle may not have it."""
_LABEL_SMOOTHING = 0.05
_LIMIT_QUANTILE = 0.99
_SPEED_LOSS, _STATE_LOSS, _EXPECTED_LOSS, _LIMIT_LOSS = 3.0, 0.1, 2.0, 0.5
_HUBER = 0.3
_SMALLEST_ERROR = 1e-3
_KMH = 3.6 * SIGNALS[SPEED].scale


@dataclass(frozen=True)
class Rows:
    """All rows of some drives, one drive after the other, and where windows end in them."""

    signals: torch.Tensor
    """Scaled [n, signals]."""
    known: torch.Tensor
    ends: torch.Tensor
    """int64 [w]: the row after each window's last; AHEAD_ROWS more rows of the same drive follow."""
    state: torch.Tensor
    """int64 [w]"""
    sound: torch.Tensor
    """float32 [w]: 1 where the drive's signals may be learned from as sound ones."""

    def windows(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(signals, known) [len(chosen), rows, signals]."""
        rows = self.ends[chosen].unsqueeze(1) + torch.arange(-ROWS, 0)
        return self.signals[rows], self.known[rows]

    def speed_changes(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(scaled change of speed in the 10 s after each window, 1 where both speeds are known)."""
        last = self.ends[chosen] - 1
        ahead = last + AHEAD_ROWS
        both = self.known[last, SPEED] * self.known[ahead, SPEED]
        return (self.signals[ahead, SPEED] - self.signals[last, SPEED]) * both, both


class DriveStateSubject:
    """The rows of one run."""

    score_name = "validation_mae_kmh_10s"
    form = ModelForm(
        kind="recurrent",
        preprocess=ObdWindow().spec,
        inputs=("steps",),
        outputs=OUTPUTS,
        golden_low=(-1.0,),
        golden_high=(1.0,),
        labels=STATES,
        architecture="LSTM of 64 units over 20 steps of 3 s, behind a layer that sees 16 OBD signals (means, "
        "differences, and which are known). It reads the minute once whole, for the speed 10 s ahead and the traffic "
        "state, and once without each signal, for what this one should be and how far off it may be",
    )
    card = CardTexts(
        data="""KIT Automotive OBD-II dataset (Weber, KIT, DOI 10.35097/1130, CC BY 4.0): one Seat Leon, 63 drives,
10 signals at 2 Hz. carOBD (github.com/eron93br/carOBD, free to everyone with citation; INDIN 2019, IEEE 8891367): one
Toyota Etios, 100 logs; its notes say 1 Hz, by its own run-time counter a row is 0.49 s, and it is taken as 2 Hz. The
split is by drive: for testing the last 14 drives of the KIT record and the last quarter of the logs of each mode of
carOBD. The drive whose name says that a measurement failed is not learned from as sound.""",
        protocol="""Speed 10 s ahead: every fifth second of the 14 later KIT drives; last value, mean of the last
5 s, and linear regression on 60 s of speed (fitted on the training drives) on the same rows. `car_`: the same on the
later carOBD logs. State: free, normal or jam as the drive's name says, for each window and for each drive (its
windows' mean); `windows_free_as_jam` counts windows of free drives that were called jam. Anomaly: windows of the later
carOBD logs, sound and with one seeded fault in one signal that begins 20 to 60 s before the window's end; faults that
change the signal by less than a tenth of its scale on average are left out, `share_left_out_` says how many. `auc_` is
the area under the ROC curve of the anomaly score, `found_` the share found where one in a hundred sound windows gives a
false alarm, `named_` the share of those found in which the odd signal was named. `share_above_2` is the share of sound
windows whose score is above 2, where a vehicle calls a signal odd unless it is told otherwise.""",
        seen="""Network, losses and epochs were chosen on held-out training drives, the last fifth of each record
and mode. Test figures were first computed for a finished bundle, whose loss weighted the rare states; because it
called fewer windows right than "always normal" does, the weights were dropped and the label smoothing halved; it
still does. Beside that only the first layer's width was changed (48 to 40), for the bundle's size.""",
        limits="""Two cars, one of each record. What signals should be is learned from these two: on another car the
anomaly score means little before training on its sound drives, and the speed forecast is untested. The state is that
of a whole drive, by its name: a minute of free flow in a drive called jam counts as jam, only seven drives are, and
one minute hardly tells free from normal. Faults were injected, none is real. A signal that is still anyway (a warm
engine's coolant) may freeze unnoticed. The score of a signal that has just come back is not to be trusted for 30 s.""",
    )

    def __init__(self, spec: TrainingSpec, parent: State | None) -> None:
        """Read and split the drives. Raises DataError naming file and field."""
        self._seed, self._parent = spec.seed, parent
        drives = load_training_drives(Path(spec.data.directory), spec.data.part)
        base = [] if spec.base is None else load_training_drives(Path(spec.base.directory), spec.base.part)
        fit, held = _split(drives, spec.fold)
        self._fit, self._all = _rows(fit + base, FIT_EVERY_ROWS), _rows(drives + base, FIT_EVERY_ROWS)
        # The forecast is judged on the KIT record, where there is one: its drives are the more varied ones.
        judged = [drive for drive in held if drive.record == "kit"] or held
        self._held_out = _rows(judged, SCORE_EVERY_ROWS)
        if not len(self._fit.ends) or not len(self._held_out.ends):
            raise DataError(f"{spec.data.directory}: fitting and validating each need a drive of more than 70 s")
        self.rows = sum(len(drive.values) for drive in drives + base)
        self.split_note = (
            f"{len(drives)} drives, {sum(len(drive.values) for drive in drives):,} rows; held out for validation: "
            f"{len(held)} drives" + (f"; {len(base)} earlier drives beside them" if base else "")
        )

    def model(self) -> DriveStateLstm:
        """Seeded weights, or the parent's."""
        torch.manual_seed(self._seed)
        model = DriveStateLstm(COUNT, FEATURES)
        if self._parent is not None:
            load_state(model, self._parent, "parent bundle")
        return model

    def recipe(self, fine_tune: bool) -> Recipe:
        """From nothing, or a few short epochs from a parent."""
        if fine_tune:
            return Recipe(4, 1.5e-3, 0.1, 0.98, clip_norm=1.0)
        return Recipe(8, 5e-3, 0.1, 0.99, clip_norm=1.0)

    def refits(self, fine_tune: bool) -> bool:
        """Not when fine-tuning, for its time."""
        return not fine_tune

    def learner(self, everything: bool) -> "DriveStateLearner":
        """Batches of the windows to fit, or of all."""
        limit = FINE_TUNE_WINDOWS if self._parent is not None else None
        return DriveStateLearner(self._all if everything else self._fit, limit)

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        """Mean absolute error of the speed in 10 s, km/h."""
        rows = self._held_out

        def mae_kmh(model: torch.nn.Module) -> float:
            total, count = 0.0, 0.0
            with torch.no_grad():
                for chosen in torch.arange(len(rows.ends)).split(_SCORE_BATCH):
                    truth, both = rows.speed_changes(chosen)
                    error = model.speed(model.read(_features(*rows.windows(chosen))))[:, 0] - truth
                    total += float((error.abs() * both).double().sum())
                    count += float(both.sum())
            return _KMH * total / max(count, 1.0)

        return mae_kmh

    def calibration(self) -> Calibration:
        """Windows spread evenly over the rows."""
        count = len(self._all.ends)
        chosen = torch.linspace(0, count - 1, min(CALIBRATION_WINDOWS, count)).long()
        return [(steps[np.newaxis],) for steps in _features(*self._all.windows(chosen)).numpy()]


class DriveStateLearner(RandomRows):
    """Batches of windows, some of them short of signals, and the loss of all heads."""

    def __init__(self, rows: Rows, windows_per_epoch: int | None) -> None:
        count = max(int(len(rows.ends) * _EPOCH_SHARE), min(_BATCH, len(rows.ends)))
        super().__init__(len(rows.ends), min(count, windows_per_epoch or count), _BATCH)
        self._rows = rows

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """(steps, speed change, its weight, state, hidden signal, its statistics, their weight), in random order.

        Windows come `_HIDDEN` times in the last three.
        """
        rows = self._rows
        for chosen in self._drawn(generator):
            signals, known = rows.windows(chosen)
            observed = statistics(signals.numpy(), known.numpy())
            short = torch.rand((len(chosen), 1, 1), generator=generator) < 0.5
            lost = torch.rand((len(chosen), 1, COUNT), generator=generator) < _DROPPED
            shown = 1.0 - (short & lost).float()
            there = known[:, -1] + 1e-3
            hidden = torch.multinomial(there, _HIDDEN, generator=generator)
            picked = (torch.arange(len(chosen)).unsqueeze(1), hidden)
            weight = torch.from_numpy(observed.seen).float()[picked] * rows.sound[chosen].view(-1, 1, 1)
            yield (
                _features(signals * shown, known * shown),
                *rows.speed_changes(chosen),
                rows.state[chosen],
                hidden.flatten(),
                torch.from_numpy(observed.values)[picked].flatten(0, 1),
                weight.flatten(0, 1),
            )

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Absolute error of the speed, cross entropy of the state, Huber loss of what hidden signals should be, and
        the pinball loss that makes the limit a quantile of that error."""
        steps, change, both, state, hidden, observed, weight = batch
        read = model.read(steps)
        loss: torch.Tensor = _SPEED_LOSS * ((model.speed(read)[:, 0] - change).abs() * both).mean()
        named = state != UNKNOWN_STATE
        if named.any():
            loss = loss + _STATE_LOSS * F.cross_entropy(
                model.state(read)[named], state[named], label_smoothing=_LABEL_SMOOTHING
            )
        expected, limit = model.without(steps.repeat_interleave(_HIDDEN, 0), hidden)
        error = F.huber_loss(expected, observed, reduction="none", delta=_HUBER)
        excess = torch.log((observed - expected).detach().abs() + _SMALLEST_ERROR) - limit
        pinball = torch.maximum(_LIMIT_QUANTILE * excess, (_LIMIT_QUANTILE - 1.0) * excess)
        return loss + ((_EXPECTED_LOSS * error + _LIMIT_LOSS * pinball) * weight).mean()


def _split(drives: list[ObdDrive], fold: Fold | None) -> tuple[list[ObdDrive], list[ObdDrive]]:
    """(drives to fit, drives to validate with); a fold takes every so manieth drive of each mode."""
    if fold is None:
        return hold_out(drives, HELD_OUT_SHARE)
    check_fold(fold)
    fit: list[ObdDrive] = []
    held: list[ObdDrive] = []
    for number, group in enumerate(by_mode(drives)):
        for place, drive in enumerate(group):
            (held if (place + number) % fold.count == fold.index else fit).append(drive)
    return fit, held


def _features(signals: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(step_features(signals.numpy(), known.numpy()))


def _rows(drives: list[ObdDrive], every: int) -> Rows:
    signals, known, ends, states, sound = [], [], [], [], []
    first = 0
    for drive in drives:
        scaled, there = scale_rows(drive.values)
        found = np.arange(ROWS, len(scaled) - AHEAD_ROWS + 1, every)
        signals.append(scaled)
        known.append(there)
        ends.append(first + found)
        states.append(np.full(len(found), drive.state))
        sound.append(np.full(len(found), drive.sound, dtype=np.float32))
        first += len(scaled)
    return Rows(*(torch.from_numpy(np.concatenate(parts)) for parts in (signals, known, ends, states, sound)))
