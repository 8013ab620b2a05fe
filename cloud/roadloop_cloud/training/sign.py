"""Training of traffic-sign: images split by track, varied, learned with smoothed labels."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from roadloop_cloud.datasets.origins import validation_mask
from roadloop_cloud.training.augment import mirror_classes, standardize, vary
from roadloop_cloud.training.card import CardTexts
from roadloop_cloud.training.compress.prune import prune_channels
from roadloop_cloud.training.epochs import RandomRows
from roadloop_cloud.training.folds import held_out_groups
from roadloop_cloud.training.quantize_onnx import Calibration
from roadloop_cloud.training.spec import DataSource, TrainingSpec
from roadloop_cloud.training.subject import ModelForm
from roadloop_cloud.training.train import Batch, Recipe
from roadloop_cloud.training.weights import State, load_state
from roadloop_models.errors import BundleError, ConfigError
from roadloop_models.preprocess import ImageStandardize
from roadloop_models.tasks.sign_classes import SIGN_LABELS
from roadloop_models.tasks.sign_data import SignRows, load_training_signs, split_by_track
from roadloop_models.zoo.sign_cnn import CHANNELS, STAGES, SignCnn, channels_of, describe, narrowed

CLIP = 3.0
VALIDATION_SHARE = 0.1
FINE_TUNE_IMAGES = 3600
"""Images per epoch of fine-tuning, drawn anew each epoch: bounds its time however many rows the fleet sends."""
CALIBRATION_IMAGES = 512
_BATCH = 64
_SMOOTHING = 0.05
_SCORE_BATCH = 256
_STUDENT_DROPOUT = 0.2
# Else nearly half of a small student's parameters were in the head.
_STUDENT_LAST_SHARE = 0.5
# Golden images are noise over most of the range that standardized images have.
_GOLDEN_RANGE = 2.5


class SignSubject:
    """The rows of one run."""

    score_name = "validation_error"
    form = ModelForm(
        kind="conv",
        preprocess=ImageStandardize(clip=CLIP).spec,
        inputs=("image",),
        outputs=("logits",),
        golden_low=(-_GOLDEN_RANGE,),
        golden_high=(_GOLDEN_RANGE,),
        labels=SIGN_LABELS,
        architecture=describe(CHANNELS),
    )
    card = CardTexts(
        data="""GTSRB (Stallkamp et al., Neural Networks 2012; Institut für Neuroinformatik, Ruhr-Universität
Bochum; "freely available", to be cited), resized to 32x32: every fourth frame of the official training tracks, and a
stratified half of the official test images to evaluate on. No licence text comes with the copy that was used.""",
        protocol="""Top-1 accuracy over all test images, one frame at a time.""",
        seen="""How long to train was settled on half of the training tracks. The kinds of variation in training were
settled after looking at an earlier model's errors on the test images, so the test figures may be slightly
optimistic.""",
        limits="""German signs only, cropped and roughly centred; it does not find signs in a scene, and it
answers with one of 43 classes also where there is none. Signs that are dark, snowed over or photographed from far away
are where most errors are.""",
    )

    def __init__(self, spec: TrainingSpec, parent: State | None) -> None:
        """Read and split the rows. Raises DataError naming file and field."""
        self._seed, self._parent = spec.seed, parent
        self._fine_tunes = parent is not None and spec.compress is None
        if parent is not None:
            self.form = dataclasses.replace(self.form, architecture=describe(_channels(parent)))
        rows = load_training_signs(Path(spec.data.directory), spec.data.part)
        fit, self._held_out = _split(rows, spec)
        base = [] if spec.base is None else [_load_base(spec.base)]
        self._fit = _join([fit, *base])
        self._all = _join([rows, *base])
        self.rows = len(self._all)
        self.split_note = (
            f"{len(rows)} images of {len(np.unique(rows.tracks))} tracks; for validation, where a run has it: "
            f"{len(self._held_out)} images of {len(np.unique(self._held_out.tracks))} whole tracks, about the same "
            f"share of each class" + (f"; {len(base[0])} earlier images beside them" if base else "")
        )

    def model(self) -> SignCnn:
        """Seeded weights, or the parent's, which may have fewer channels. Raises BundleError for another network's."""
        torch.manual_seed(self._seed)
        if self._parent is not None:
            return _loaded(self._parent, "parent bundle")
        return _in_channels_last(SignCnn(len(SIGN_LABELS), channels=CHANNELS))

    def network(self, state: State) -> SignCnn:
        """Another bundle's, of its own width. Raises BundleError for another network's weights."""
        return _loaded(state, "teacher")

    def recipe(self, fine_tune: bool) -> Recipe:
        """From nothing, or two short epochs from a parent, whose first stage (half of the time) stays as it is."""
        if fine_tune:
            return Recipe(2, 2e-3, 0.02, 0.98, frozen=("features.0", "features.1"))
        # How long is settled: a tenth of the tracks is too little to choose an epoch by.
        return Recipe(50, 2e-3, 0.05, 0.999, warmup_share=0.1, held_rate=0.3, whole_length=True)

    def refits(self, fine_tune: bool) -> bool:
        """Not when fine-tuning: a tenth more tracks is not worth twice the time."""
        return not fine_tune

    hints = STAGES

    def student(self, share: float) -> SignCnn:
        """A narrower network, seeded. Raises ConfigError where there is none so small."""
        channels = self._narrowed(share, _STUDENT_LAST_SHARE)
        torch.manual_seed(self._seed)
        return _in_channels_last(SignCnn(len(SIGN_LABELS), dropout=_STUDENT_DROPOUT, channels=channels))

    def pruned(self, share: float) -> SignCnn:
        """The parent with the channels that count most for training images. Raises ConfigError where none so small."""
        images = torch.from_numpy(np.concatenate([row[0] for row in self.calibration()]))
        return _in_channels_last(prune_channels(self.model(), self._narrowed(share), images))

    def describe(self, model: torch.nn.Module) -> str:
        """One sentence for the model card."""
        assert isinstance(model, SignCnn)
        return describe(model.channels)

    def student_recipe(self) -> Recipe:
        """Longer than its teacher's: an epoch of it costs less."""
        return Recipe(60, 3e-3, 0.02, 0.999, warmup_share=0.1, held_rate=0.25, whole_length=True)

    def pruned_recipe(self) -> Recipe:
        """Short: most of what it has to know it knows already."""
        return Recipe(10, 1e-3, 0.02, 0.998, whole_length=True)

    def rounded_recipe(self) -> Recipe:
        """Short and gentle: only the rounding is new."""
        return Recipe(3, 1e-4, 0.0, 0.99, whole_length=True)

    def _narrowed(self, share: float, last_share: float = 1.0) -> tuple[int, ...]:
        try:
            return narrowed(self.model().channels, share, len(SIGN_LABELS), last_share=last_share)
        except ValueError as error:
            raise ConfigError(f"share {share:g}: {error}") from None

    def learner(self, everything: bool) -> "SignLearner":
        """Batches of the rows to fit, or of all."""
        rows = self._all if everything else self._fit
        return SignLearner(rows, FINE_TUNE_IMAGES if self._fine_tunes else None)

    @property
    def score(self) -> Callable[[torch.nn.Module], float]:
        """Share of wrong validation images, plus a thousandth of the cross entropy to part ties."""
        images, labels = _tensor(self._held_out), torch.from_numpy(self._held_out.labels)

        def error(model: torch.nn.Module) -> float:
            with torch.no_grad():
                logits = torch.cat(
                    [model(_nhwc(standardize(part.float(), CLIP))) for part in images.split(_SCORE_BATCH)]
                )
            wrong = (logits.argmax(dim=1) != labels).float().mean()
            return float(wrong + F.cross_entropy(logits, labels) / 1000.0)

        return error

    def calibration(self) -> Calibration:
        """Images spread evenly over the rows, as the vehicle preprocesses them."""
        preprocess = ImageStandardize(clip=CLIP)
        chosen = np.linspace(0, len(self._all) - 1, min(CALIBRATION_IMAGES, len(self._all))).astype(int)
        return [preprocess(self._all.images[index]) for index in chosen]


def _loaded(state: State, source: str) -> SignCnn:
    model = _in_channels_last(SignCnn(len(SIGN_LABELS), channels=_channels(state)))
    load_state(model, state, source)
    return model


class SignLearner(RandomRows):
    """Varied batches and their loss."""

    def __init__(self, rows: SignRows, images_per_epoch: int | None) -> None:
        super().__init__(len(rows), images_per_epoch, _BATCH)
        self._images, self._labels = _tensor(rows), torch.from_numpy(rows.labels)
        self._mirror = mirror_classes()

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in random order."""
        for chosen in self._drawn(generator):
            values, labels = vary(self._images[chosen], self._labels[chosen], self._mirror, CLIP, generator)
            yield _nhwc(values), labels

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Cross entropy with smoothed labels."""
        return self.loss_of(model(*self.inputs(batch)), batch)

    def inputs(self, batch: Batch) -> Batch:
        """What of a batch the model takes."""
        return batch[:1]

    def loss_of(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Of an answer that is there already."""
        return F.cross_entropy(logits, batch[1], label_smoothing=_SMOOTHING)


def _in_channels_last(model: SignCnn) -> SignCnn:
    model.to(memory_format=torch.channels_last)
    return model


def _channels(state: State) -> tuple[int, ...]:
    try:
        return channels_of(state)
    except KeyError as error:
        raise BundleError(f"parent bundle: training weights are of another network: {error} is missing") from None


def _nhwc(values: torch.Tensor) -> torch.Tensor:
    # The model turns this back: together it is a channels-last tensor, without a copy in between.
    return values.permute(0, 2, 3, 1).contiguous()


def _tensor(rows: SignRows) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows.images.transpose(0, 3, 1, 2)))


def _split(rows: SignRows, spec: TrainingSpec) -> tuple[SignRows, SignRows]:
    """What a snapshot sets aside for validation stays so; else, and for folds, whole tracks are held out."""
    held_out: npt.NDArray[np.bool_] | None
    if spec.fold is not None:
        held_out = held_out_groups(rows.tracks, rows.labels, spec.fold, spec.seed)
    else:
        held_out = validation_mask(Path(spec.data.directory)) if spec.data.part == "snapshot" else None
    if held_out is None:
        return split_by_track(rows, VALIDATION_SHARE, spec.seed)
    return rows.take(~held_out), rows.take(held_out)


def _load_base(source: DataSource) -> SignRows:
    return load_training_signs(Path(source.directory), source.part)


def _join(parts: list[SignRows]) -> SignRows:
    """Rows of several folders; tracks keep apart."""
    offset, tracks = 0, []
    for part in parts:
        tracks.append(part.tracks + offset)
        offset = int(tracks[-1].max()) + 1
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return SignRows(images, labels, np.concatenate(tracks))
