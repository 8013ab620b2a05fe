"""One training run from spec to bundle: rows -> weights -> files -> golden vectors -> card -> bundle."""

import copy
import dataclasses
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from roadloop_cloud.files import move_tree_durably
from roadloop_cloud.training.card import CURVES_FILE, CardFigures, model_card
from roadloop_cloud.training.checkpoint import Checkpoints
from roadloop_cloud.training.compress.rounding import int8_loss
from roadloop_cloud.training.compress.subject import compressed, roundable, rounded_training
from roadloop_cloud.training.curves import draw_curves
from roadloop_cloud.training.drive_state import DriveStateSubject
from roadloop_cloud.training.evaluate import evaluate_bundle
from roadloop_cloud.training.export import export_variants
from roadloop_cloud.training.flow import FlowSubject
from roadloop_cloud.training.localization import LocalizationSubject
from roadloop_cloud.training.merge import merge_speed_lstms
from roadloop_cloud.training.ranks import Ranks
from roadloop_cloud.training.record import code_sha256, packages, recipe_values, training_record
from roadloop_cloud.training.reference import reference_of
from roadloop_cloud.training.replay import ReplayedSubject
from roadloop_cloud.training.sign import SignSubject
from roadloop_cloud.training.sources import sources_of
from roadloop_cloud.training.spec import FORMS, Rounding, TrainingProgress, TrainingResult, TrainingSpec
from roadloop_cloud.training.speed import SpeedSubject
from roadloop_cloud.training.subject import ModelForm, Subject
from roadloop_cloud.training.tolerance import measure_tolerance
from roadloop_cloud.training.train import Fitted, Recipe, fit
from roadloop_cloud.training.vehicle_count import CountSubject
from roadloop_cloud.training.weights import State, decode_weights, encode_weights, halve, load_state
from roadloop_cloud.training.worker import DRAFTS
from roadloop_models.bundle import Bundle, GoldenSpec, Lineage, Manifest, Source, Variant, write_bundle
from roadloop_models.bundle.golden import encode_golden
from roadloop_models.bundle.manifest import MANIFEST_FORMAT, TrainingRecord
from roadloop_models.errors import BundleError, ConfigError, NotFoundError
from roadloop_models.runners import FloatArray, open_file
from roadloop_models.sketches.reference import REFERENCE_FILE
from roadloop_models.tasks import Evaluation

MIN_AGENT_VERSION = "0.1.0"
GOLDEN_COUNT = 8
GOLDEN_SEED = 20261123
WEIGHTS_FILE, GOLDEN_FILE, CARD_FILE, LABELS_FILE = "weights.npz", "golden.npz", "MODEL_CARD.md", "labels.txt"
CHECKPOINTS = "checkpoints"
_SUBJECTS: dict[str, Callable[[TrainingSpec, State | None], Subject]] = {
    "drive-state": DriveStateSubject,
    "localization": LocalizationSubject,
    "traffic-flow": FlowSubject,
    "traffic-sign": SignSubject,
    "traffic-speed": SpeedSubject,
    "vehicle-count": CountSubject,
}

OnProgress = Callable[[TrainingProgress], None]


@dataclasses.dataclass(frozen=True)
class _Trained:
    """How it was trained, what validation chose, and whose weights to keep: the same, or those of a second run."""

    recipe: Recipe
    chosen: Fitted
    final: Fitted

    @property
    def refitted(self) -> bool:
        return self.final is not self.chosen

    def curves(self, score_name: str) -> bytes:
        """A picture of both runs."""
        again = self.final.history if self.refitted else ()
        return draw_curves(self.chosen.history, again, score_name, self.chosen.epoch)


class Trainer:
    """Runs one spec; what it does when is in `run`."""

    def __init__(self, spec: TrainingSpec, on_progress: OnProgress, ranks: Ranks | None = None) -> None:
        """`ranks`: this process's place where several train together; None: it is alone."""
        self._spec = spec
        self._on_progress = on_progress
        self._ranks = ranks or Ranks()
        self._seconds: dict[str, float] = {}
        self._sources: tuple[Source, ...] = ()

    def run(self, target: Path) -> TrainingResult | None:
        """Train and write the bundle to `target`; None where another rank does so.

        Checkpoints lie in the folder `checkpoints` beside `target`. Raises DataError for the data, BundleError for the
        parent or where `target` exists already, NotFoundError for the task, DiskFullError.
        """
        if target.exists():
            raise BundleError(f"{target}: exists already; a bundle is never changed, choose a new version")
        torch.set_num_threads(self._spec.threads)
        torch.set_flush_denormal(True)
        with self._stage("load"):
            self._sources = _sources(self._spec)
            subject, parent = open_subject(self._spec)
            if self._spec.compress is not None:
                subject = compressed(subject, self._spec.compress, _teachers(self._spec))
            if self._spec.qat_above is not None:
                roundable(subject)
        trained = self._train(subject, target.parent / CHECKPOINTS)
        if not self._ranks.is_first:
            return None
        if self._spec.score_only:
            assert trained.chosen.score is not None
            return self._result(subject, trained, "", {subject.score_name: trained.chosen.score})
        model = subject.model()
        load_state(model, halve(trained.final.state), "trained")
        rounding = self._round_where_needed(subject, model, target.parent)
        with tempfile.TemporaryDirectory(prefix=DRAFTS, dir=target.parent) as scratch:
            bundle = self._pack(subject, model, trained, parent, Path(scratch))
            move_tree_durably(bundle.directory, target)
        return self._result(subject, trained, str(target), bundle.manifest.metrics, rounding)

    def _result(
        self,
        subject: Subject,
        trained: _Trained,
        bundle: str,
        metrics: dict[str, float],
        rounding: Rounding | None = None,
    ) -> TrainingResult:
        return TrainingResult(
            bundle=bundle,
            metrics=metrics,
            best_epoch=trained.chosen.epoch,
            rows=subject.rows,
            seconds={name: round(seconds, 2) for name, seconds in self._seconds.items()},
            rounding=rounding,
        )

    def _recipe(self, subject: Subject) -> Recipe:
        """The task's recipe with what the spec changes."""
        spec = self._spec
        changes: dict[str, float] = spec.recipe.given()
        if spec.epochs is not None:
            changes["epochs"] = spec.epochs
        return dataclasses.replace(subject.recipe(spec.parent is not None), **changes)  # type: ignore[arg-type]

    def _train(self, subject: Subject, folder: Path) -> _Trained:
        spec, recipe = self._spec, self._recipe(subject)
        if spec.compress is not None and spec.compress.method == "quantize":
            same = Fitted(subject.model().state_dict(), 0, subject.score(subject.model().eval()))
            return _Trained(recipe, same, same)
        if spec.merge:  # without a score: the networks may have learned from the validation rows
            merged = Fitted(subject.model().state_dict(), 0, None)
            return _Trained(recipe, merged, merged)
        refit = subject.refits(spec.parent is not None) if spec.refit is None else spec.refit
        refit = refit and not spec.score_only
        if recipe.whole_length:  # on all rows at once, or without the validation rows and then scored on these
            whole = self._fit("train", subject, recipe, folder, everything=refit)
            return _Trained(recipe, whole, whole)
        chosen = self._fit("train", subject, recipe, folder)
        if not refit or chosen.epoch == 0:
            return _Trained(recipe, chosen, chosen)
        final = self._fit("refit", subject, recipe, folder, everything=True, last_epoch=chosen.epoch)
        return _Trained(recipe, chosen, final)

    def _fit(
        self,
        stage: str,
        subject: Subject,
        recipe: Recipe,
        folder: Path,
        *,
        everything: bool = False,
        last_epoch: int | None = None,
    ) -> Fitted:
        """One stage, from its last checkpoint on. `everything`: on the validation rows too, and so without a score."""
        spec = self._spec
        with self._stage(stage):
            return fit(
                subject.model(),
                subject.learner(everything),
                recipe,
                seed=spec.seed,
                on_epoch=self._epochs(stage),
                on_resume=self._epochs(stage, resumed=True),
                score=None if everything else subject.score,
                last_epoch=last_epoch,
                checkpoints=Checkpoints(
                    folder / f"{stage}.npz",
                    _fingerprint(spec, subject, recipe, (everything, last_epoch)),
                    spec.checkpoint_every_s,
                ),
                ranks=self._ranks,
            )

    def _round_where_needed(self, subject: Subject, model: torch.nn.Module, folder: Path) -> Rounding | None:
        """Train `model` on quantization-aware where its int8 files lose more on validation rows than was allowed."""
        spec = self._spec
        if spec.qat_above is None:
            return None
        learner, recipe = rounded_training(subject, model, spec.compress)
        with self._stage("round"), tempfile.TemporaryDirectory(prefix=DRAFTS, dir=folder) as scratch:
            lost = int8_loss(subject, model, Path(scratch))
            self._on_progress(TrainingProgress(stage="round", done=0, total=1, message=f"int8 loses {lost:.4g}"))
            if lost <= spec.qat_above:
                return Rounding(lost=lost, trained_on=False)
            begin, on_epoch = copy.deepcopy(model), self._epochs("round")
            rounded = fit(begin, learner, recipe, seed=spec.seed, on_epoch=on_epoch, score=None)
            load_state(model, halve(rounded.state), "trained")
            return Rounding(lost=lost, trained_on=True)

    def _pack(
        self, subject: Subject, model: torch.nn.Module, trained: _Trained, parent: Bundle | None, scratch: Path
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
            record = training_record(spec, trained.recipe, trained.chosen.epoch, trained.refitted)
            manifest = self._manifest(form, variants, golden, parent, record)
            tested: dict[str, Evaluation] = {}
            draft = write_bundle(scratch / "draft", manifest, files | {CARD_FILE: b"draft\n"})
            reference = reference_of(draft, spec.data, base=spec.base, seed=spec.seed)
            if reference is not None:
                files[REFERENCE_FILE] = reference
                manifest = msgspec.structs.replace(manifest, reference=REFERENCE_FILE)
            if spec.test_data is not None:
                tested = evaluate_bundle(draft, Path(spec.test_data), self._steps("check"))
            if trained.chosen.history:
                files[CURVES_FILE] = trained.curves(subject.score_name)
            figures = self._figures(subject, model, trained, files, tested)
            files[CARD_FILE] = model_card(spec, variants, figures).encode()
            return write_bundle(
                scratch / "bundle", msgspec.structs.replace(manifest, metrics=_metrics(spec, figures)), files
            )

    def _manifest(
        self,
        form: ModelForm,
        variants: tuple[Variant, ...],
        golden: GoldenSpec,
        parent: Bundle | None,
        record: TrainingRecord,
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
                spec.snapshot_sha256,
                None if parent is None else parent.manifest.version,
                spec.command,
                spec.data_name,
                record,
                self._sources,
            ),
        )

    def _figures(
        self,
        subject: Subject,
        model: torch.nn.Module,
        trained: _Trained,
        files: dict[str, bytes],
        tested: dict[str, Evaluation],
    ) -> CardFigures:
        return CardFigures(
            texts=subject.card,
            architecture=subject.form.architecture,
            split_note=subject.split_note,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            best_epoch=trained.chosen.epoch,
            score_name=subject.score_name,
            score=trained.chosen.score,
            refitted=trained.refitted,
            test_rows=next((evaluation.rows for evaluation in tested.values()), None),
            sizes_bytes={name: len(content) for name, content in files.items()},
            test={key: evaluation.metrics for key, evaluation in tested.items()},
        )

    def _epochs(self, stage: str, resumed: bool = False) -> Callable[[int, int, str], None]:
        return lambda epoch, epochs, message: self._on_progress(
            TrainingProgress(stage=stage, done=epoch, total=epochs, message=message, resumed=resumed)
        )

    def _steps(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self._on_progress(TrainingProgress(stage=stage, done=done, total=total))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self._on_progress(TrainingProgress(stage=name, done=0, total=1))
        yield
        self._seconds[name] = time.monotonic() - started


def _fingerprint(spec: TrainingSpec, subject: Subject, recipe: Recipe, extent: tuple[bool, int | None]) -> str:
    """Of all that decides how a stage goes: a checkpoint is gone on from only where all of it is the same."""
    task = (spec.task, spec.form)
    start = (task, spec.data, spec.parent, spec.base, spec.replay_share, spec.fold, spec.snapshot_sha256)
    made = spec.compress
    rows = (subject.rows, subject.split_note)
    how = (spec.seed, spec.workers, spec.threads, recipe_values(recipe), extent)
    with_what = (code_sha256(), packages())
    deciding = msgspec.to_builtins([start, made, rows, how, with_what])
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def open_subject(spec: TrainingSpec) -> tuple[Subject, Bundle | None]:
    """The rows of a run and its way to train, and the bundle it starts from. Raises as `Trainer.run`."""
    if spec.merge:
        merged = [_open_bundle(spec.task, path) for path in spec.merge]
        return _subject(spec, merge_speed_lstms([decode_weights(_weights_path(bundle)) for bundle in merged])), None
    parent = None if spec.parent is None else _open_bundle(spec.task, spec.parent)
    state = None if parent is None else decode_weights(_weights_path(parent))
    return _subject(spec, state), parent


def _sources(spec: TrainingSpec) -> tuple[Source, ...]:
    """Of the bundles that it is made of or taught by."""
    paths = list(spec.merge)
    if spec.compress is not None and spec.parent is not None:
        paths += [spec.parent, *spec.compress.teachers]
    return sources_of(_open_bundle(spec.task, path).manifest for path in paths)


def _teachers(spec: TrainingSpec) -> list[State]:
    """The weights of those that teach beside the parent."""
    paths = () if spec.compress is None else spec.compress.teachers
    return [decode_weights(_weights_path(_open_bundle(spec.task, path))) for path in paths]


def _subject(spec: TrainingSpec, parent: State | None) -> Subject:
    if spec.task not in _SUBJECTS:
        raise NotFoundError(f"no training for task '{spec.task}'; there is {', '.join(_SUBJECTS)}")
    forms = FORMS.get(spec.task, ())
    if spec.form is not None and spec.form not in forms:
        raise NotFoundError(f"no form '{spec.form}' of {spec.task}; there is {', '.join(forms) or 'the usual one'}")
    made = _SUBJECTS[spec.task]
    if spec.replay_share is None:
        return made(spec, parent)
    if spec.base is None:
        raise ConfigError("a share to replay needs old rows to replay: name their data folder or snapshot")
    # The old rows hold out some of their own, so that validation sees what is forgotten.
    old = msgspec.structs.replace(spec, data=spec.base, base=None, fold=None)
    return ReplayedSubject(made(msgspec.structs.replace(spec, base=None), parent), made(old, parent), spec.replay_share)


def _open_bundle(task: str, path: str) -> Bundle:
    bundle = Bundle.open(Path(path))
    if bundle.manifest.task != task:
        raise BundleError(f"{path}: is a bundle of {bundle.manifest.task}, asked for is {task}")
    return bundle


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


def _metrics(spec: TrainingSpec, figures: CardFigures) -> dict[str, float]:
    """What the manifest carries: the validation score, where there is one, and that of folds; test figures, as
    `{variant key}/{figure}`."""
    found = {} if figures.score is None else {figures.score_name: figures.score}
    if spec.fold_scores:
        found[f"{figures.score_name}_folds_mean"] = statistics.fmean(spec.fold_scores)
        found[f"{figures.score_name}_folds_deviation"] = statistics.stdev(spec.fold_scores)
    tested = {f"{key}/{name}": value for key, values in figures.test.items() for name, value in values.items()}
    return found | tested
