"""One training run from spec to bundle: rows -> weights -> files -> golden vectors -> card -> bundle."""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from roadloop_cloud.training.card import CardFigures, model_card
from roadloop_cloud.training.drive_state import DriveStateSubject
from roadloop_cloud.training.evaluate import evaluate_bundle
from roadloop_cloud.training.export import export_variants
from roadloop_cloud.training.flow import FlowSubject
from roadloop_cloud.training.localization import LocalizationSubject
from roadloop_cloud.training.sign import SignSubject
from roadloop_cloud.training.spec import TrainingProgress, TrainingResult, TrainingSpec
from roadloop_cloud.training.speed import SpeedSubject
from roadloop_cloud.training.subject import ModelForm, Subject
from roadloop_cloud.training.tolerance import measure_tolerance
from roadloop_cloud.training.train import Fitted, Recipe, fit
from roadloop_cloud.training.vehicle_count import CountSubject
from roadloop_cloud.training.weights import State, decode_weights, encode_weights, halve, load_state
from roadloop_models.bundle import Bundle, GoldenSpec, Lineage, Manifest, Variant, write_bundle
from roadloop_models.bundle.golden import encode_golden
from roadloop_models.bundle.manifest import MANIFEST_FORMAT
from roadloop_models.errors import BundleError, NotFoundError
from roadloop_models.runners import FloatArray, open_file
from roadloop_models.tasks import Evaluation

MIN_AGENT_VERSION = "0.1.0"
GOLDEN_COUNT = 8
GOLDEN_SEED = 20261123
WEIGHTS_FILE, GOLDEN_FILE, CARD_FILE, LABELS_FILE = "weights.npz", "golden.npz", "MODEL_CARD.md", "labels.txt"
_SUBJECTS: dict[str, Callable[[TrainingSpec, State | None], Subject]] = {
    "drive-state": DriveStateSubject,
    "localization": LocalizationSubject,
    "traffic-flow": FlowSubject,
    "traffic-sign": SignSubject,
    "traffic-speed": SpeedSubject,
    "vehicle-count": CountSubject,
}

OnProgress = Callable[[TrainingProgress], None]


class Trainer:
    """Runs one spec; what it does when is in `run`."""

    def __init__(self, spec: TrainingSpec, on_progress: OnProgress) -> None:
        self._spec = spec
        self._on_progress = on_progress
        self._seconds: dict[str, float] = {}

    def run(self, target: Path) -> TrainingResult:
        """Train and write the bundle to `target`.

        Raises DataError for the data, BundleError for the parent or where `target` exists already, NotFoundError for
        the task.
        """
        if target.exists():
            raise BundleError(f"{target}: exists already; a bundle is never changed, choose a new version")
        torch.set_num_threads(self._spec.threads)
        torch.set_flush_denormal(True)
        with self._stage("load"):
            parent = _open_parent(self._spec)
            state = None if parent is None else decode_weights(_weights_path(parent))
            subject = _subject(self._spec, state)
        fitted, final = self._train(subject)
        model = subject.model()
        load_state(model, halve(final), "trained")
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as scratch:
            bundle = self._pack(subject, model, fitted, parent, Path(scratch))
            shutil.move(bundle.directory, target)
        return TrainingResult(
            bundle=str(target),
            metrics=bundle.manifest.metrics,
            best_epoch=fitted.epoch,
            rows=subject.rows,
            seconds={name: round(seconds, 2) for name, seconds in self._seconds.items()},
        )

    def _train(self, subject: Subject) -> tuple[Fitted, State]:
        """(what validation chose, the weights to keep)."""
        spec, fine_tune = self._spec, self._spec.parent is not None
        recipe = subject.recipe(fine_tune)
        if spec.epochs is not None:
            recipe = dataclasses.replace(recipe, epochs=spec.epochs)
        refit = subject.refits(fine_tune) if spec.refit is None else spec.refit
        if recipe.whole_length:
            return self._train_whole(subject, recipe, everything=refit)
        with self._stage("train"):
            fitted = fit(
                subject.model(),
                subject.learner(everything=False),
                recipe,
                seed=spec.seed,
                on_epoch=self._epochs("train"),
                score=subject.score,
            )
        if not refit or fitted.epoch == 0:
            return fitted, fitted.state
        with self._stage("refit"):
            again = fit(
                subject.model(),
                subject.learner(everything=True),
                recipe,
                seed=spec.seed,
                on_epoch=self._epochs("refit"),
                score=None,
                last_epoch=fitted.epoch,
            )
        return fitted, again.state

    def _train_whole(self, subject: Subject, recipe: Recipe, everything: bool) -> tuple[Fitted, State]:
        """All of the recipe's epochs: on all rows, or without the validation rows and then scored on these."""
        with self._stage("train"):
            fitted = fit(
                subject.model(),
                subject.learner(everything),
                recipe,
                seed=self._spec.seed,
                on_epoch=self._epochs("train"),
                score=None if everything else subject.score,
            )
        return fitted, fitted.state

    def _pack(
        self, subject: Subject, model: torch.nn.Module, fitted: Fitted, parent: Bundle | None, scratch: Path
    ) -> Bundle:
        """Write the bundle twice: a draft to evaluate, then the one that carries what was found."""
        spec, form = self._spec, subject.form
        with self._stage("quantize"):
            variants = export_variants(
                model,
                form,
                subject.calibration(),
                scratch,
                with_fp32=spec.with_fp32,
                on_step=self._steps("quantize"),
            )
        with self._stage("check"):
            golden = GoldenSpec(GOLDEN_SEED, GOLDEN_COUNT, form.golden_low, form.golden_high, GOLDEN_FILE)
            variants, golden_content = _measured(variants, golden, scratch)
            files = {variant.file: (scratch / variant.file).read_bytes() for variant in variants}
            files |= {GOLDEN_FILE: golden_content, WEIGHTS_FILE: encode_weights(model.state_dict())}
            if form.labels is not None:
                files[LABELS_FILE] = "".join(f"{label}\n" for label in form.labels).encode()
            manifest = self._manifest(form, variants, golden, parent)
            tested: dict[str, Evaluation] = {}
            if spec.test_data is not None:
                draft = write_bundle(scratch / "draft", manifest, files | {CARD_FILE: b"draft\n"})
                tested = evaluate_bundle(draft, Path(spec.test_data), self._steps("check"))
            figures = self._figures(subject, model, fitted, files, tested)
            files[CARD_FILE] = model_card(spec, variants, figures).encode()
            return write_bundle(scratch / "bundle", msgspec.structs.replace(manifest, metrics=_metrics(figures)), files)

    def _manifest(
        self, form: ModelForm, variants: tuple[Variant, ...], golden: GoldenSpec, parent: Bundle | None
    ) -> Manifest:
        spec = self._spec
        return Manifest(
            format=MANIFEST_FORMAT,
            task=spec.task,
            version=spec.version,
            min_agent_version=MIN_AGENT_VERSION,
            files=(),
            variants=variants,
            preprocess=form.preprocess,
            golden=golden,
            labels=None if form.labels is None else LABELS_FILE,
            model_card=CARD_FILE,
            training_weights=WEIGHTS_FILE,
            lineage=Lineage(
                spec.snapshot_sha256, None if parent is None else parent.manifest.version, spec.command, spec.data_name
            ),
        )

    def _figures(
        self,
        subject: Subject,
        model: torch.nn.Module,
        fitted: Fitted,
        files: dict[str, bytes],
        tested: dict[str, Evaluation],
    ) -> CardFigures:
        return CardFigures(
            texts=subject.card,
            architecture=subject.form.architecture,
            split_note=subject.split_note,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            best_epoch=fitted.epoch,
            score_name=subject.score_name,
            score=fitted.score,
            refitted="refit" in self._seconds,
            test_rows=next((evaluation.rows for evaluation in tested.values()), None),
            sizes_bytes={name: len(content) for name, content in files.items()},
            test={key: evaluation.metrics for key, evaluation in tested.items()},
        )

    def _epochs(self, stage: str) -> Callable[[int, int, str], None]:
        return lambda epoch, epochs, message: self._on_progress(
            TrainingProgress(stage=stage, done=epoch, total=epochs, message=message)
        )

    def _steps(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self._on_progress(TrainingProgress(stage=stage, done=done, total=total))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self._on_progress(TrainingProgress(stage=name, done=0, total=1))
        yield
        self._seconds[name] = time.monotonic() - started


def _subject(spec: TrainingSpec, parent: State | None) -> Subject:
    if spec.task not in _SUBJECTS:
        raise NotFoundError(f"no training for task '{spec.task}'; there is {', '.join(_SUBJECTS)}")
    return _SUBJECTS[spec.task](spec, parent)


def _open_parent(spec: TrainingSpec) -> Bundle | None:
    if spec.parent is None:
        return None
    parent = Bundle.open(Path(spec.parent))
    if parent.manifest.task != spec.task:
        raise BundleError(f"{spec.parent}: is a bundle of {parent.manifest.task}, asked for is {spec.task}")
    return parent


def _weights_path(parent: Bundle) -> Path:
    if parent.manifest.training_weights is None:
        raise BundleError(f"{parent.directory}: manifest.json: 'training_weights' is missing; it cannot be trained on")
    return parent.path(parent.manifest.training_weights)


def _measured(variants: tuple[Variant, ...], golden: GoldenSpec, scratch: Path) -> tuple[tuple[Variant, ...], bytes]:
    """The variants with their golden tolerance, and the content of the golden file."""
    outputs: dict[str, FloatArray] = {}
    measured = []
    for variant in variants:
        runner = open_file(scratch / variant.file, variant)
        tolerance, found = measure_tolerance(golden, variant, runner, scratch / variant.file)
        runner.close()
        outputs |= found
        measured.append(msgspec.structs.replace(variant, golden_tolerance=tolerance))
    return tuple(measured), encode_golden(outputs)


def _metrics(figures: CardFigures) -> dict[str, float]:
    """What the manifest carries: the validation score, where there is one; test figures, `{variant key}/{figure}`."""
    tested = {f"{key}/{name}": value for key, values in figures.test.items() for name, value in values.items()}
    return ({} if figures.score is None else {figures.score_name: figures.score}) | tested
