"""The job `teach`: one larger model, or several together, say what captured images show.

Teachers are registered versions of the task, run in the cloud with the vehicle's own preprocessing; several give the
mean of their probabilities. Where they disagree with what the vehicle decided, a person is asked first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from roadloop_cloud.captures import Captured, Captures, DamagedError, Decision, decode_image, read_content
from roadloop_cloud.jobs import Work
from roadloop_cloud.labels.service import Labels
from roadloop_cloud.labels.words import ClassValue, Word, judge
from roadloop_cloud.registry.models import ModelRegistry
from roadloop_models.bundle import Bundle
from roadloop_models.bundle.manifest import Name
from roadloop_models.errors import BundleError, ConfigError, NotFoundError
from roadloop_models.preprocess import ImageArray
from roadloop_models.runners import Runner, open_runner
from roadloop_models.tasks import get_task
from roadloop_models.typed import from_builtins

KIND = "teach"
TASKS = ("traffic-sign",)
MOST = 3
"""Teachers that are taken where nobody names them."""
_CHUNK = 100
Probabilities = npt.NDArray[np.float64]


class TeachSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a teaching is asked for."""

    task: Name
    teachers: tuple[Name, ...] = ()
    """Versions; none: the best by their evaluation."""
    unlabelled: bool = False
    """Only items of which nothing that counts has been said yet."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


@dataclass(frozen=True)
class Opinion:
    """What a teacher says of one item."""

    name: str
    confidence: float
    disagreement: float | None
    """None where the vehicle's decision is not known."""


Show = Callable[[str, float | None], None]
"""Says what is done now, and how much of it (0..1)."""


class Teaching:
    """The services that teaching needs; `run` is the job's handler."""

    def __init__(
        self,
        labels: Labels,
        captures: Captures,
        models: ModelRegistry,
        classes: Callable[[str], tuple[str, ...]],
        quarantined: Callable[[], Collection[str]],
        *,
        watch: Callable[[str], Sequence[str]],
    ) -> None:
        """`classes`: the names that a task's labels may have; `watch` looks at a task's labels and sets liars apart."""
        self._labels = labels
        self._captures = captures
        self._models = models
        self._classes = classes
        self._quarantined = quarantined
        self._watch = watch

    def run(self, work: Work) -> dict[str, Any]:
        """`teach` as a job."""
        return self.teach(from_builtins(work.job.spec, TeachSpec), work.progress)

    def teach(self, spec: TeachSpec, show: Show) -> dict[str, Any]:
        """Label what these teachers have not labelled yet; after a kill the next attempt goes on where it stopped.

        Raises NotFoundError (task or version), ConfigError (no teacher), BundleError, RuntimeMissingError.
        """
        check_task(spec.task)
        versions = tuple(sorted(spec.teachers)) or self.best(spec.task)
        bundles = [self._models.bundle(spec.task, version) for version in versions]
        by = f"teacher {' + '.join(versions)}"
        waiting = self._waiting(spec, by)
        decisions = self._captures.decisions(waiting)
        classes = self._classes(spec.task)
        damaged = disagreed = 0
        voices = [Voice(bundle, classes, spec.threads) for bundle in bundles]
        try:
            for start in range(0, len(waiting), _CHUNK):
                words = []
                for item in waiting[start : start + _CHUNK]:
                    try:
                        image = decode_image(item, read_content(item))
                    except DamagedError:
                        damaged += 1
                        continue
                    shares = np.mean([voice(image) for voice in voices], axis=0)
                    decision = decisions.get(item.sha256)
                    opinion = form_opinion(shares, classes, decision)
                    disagreed += decision is not None and decision.class_id != int(np.argmax(shares))
                    value = ClassValue(opinion.name)
                    words.append(
                        Word(
                            spec.task,
                            item.sha256,
                            value,
                            "teacher",
                            by,
                            confidence=opinion.confidence,
                            disagreement=opinion.disagreement,
                        )
                    )
                self._labels.say(words)
                show(f"{by} looks at images", min(start + _CHUNK, len(waiting)) / len(waiting))
        finally:
            for voice in voices:
                voice.close()
        labelled = len(waiting) - damaged
        return {
            "teachers": versions,
            "by": by,
            "labelled": labelled,
            "damaged": damaged,
            "disagreed": disagreed,
            "set_apart": list(self._watch(spec.task)),
        }

    def best(self, task: str) -> tuple[str, ...]:
        """The versions that evaluated best, at most three. Raises ConfigError where none was evaluated."""
        rules = get_task(task)
        ranked = []
        for row in self._models.list(task):
            figures = [found["metrics"].get(rules.metric) for found in (row.evaluation or {}).values()]
            known = [figure for figure in figures if figure is not None]
            if known:
                best = max(known) if rules.higher_is_better else -min(known)
                ranked.append((-best, row.version))
        if not ranked:
            raise ConfigError(f"no version of {task} was evaluated; name teachers, or 'roadloop models evaluate' some")
        return tuple(sorted(version for _, version in sorted(ranked)[:MOST]))

    def _waiting(self, spec: TeachSpec, by: str) -> Sequence[Captured]:
        words = self._labels.words(spec.task)
        done = {word.item for word in words if (word.origin, word.by) == ("teacher", by)}
        if spec.unlabelled:
            done |= set(judge(words))
        quarantined = set(self._quarantined())
        found: dict[str, Captured] = {}
        for item in self._captures.of(spec.task):
            if item.sha256 not in done and item.vehicle not in quarantined:
                found.setdefault(item.sha256, item)
        return list(found.values())


def check_task(task: str) -> None:
    """Raise NotFoundError for a task whose items no teacher labels."""
    if task not in TASKS:
        raise NotFoundError(f"no teacher for '{task}'; there are teachers for {', '.join(TASKS)}")


def form_opinion(shares: Probabilities, classes: Sequence[str], decision: Decision | None) -> Opinion:
    """From probabilities [classes] and what the vehicle decided: disagreement is what other classes get."""
    best = int(np.argmax(shares))
    disagreement = None
    if decision is not None:
        agreed = float(shares[decision.class_id]) if 0 <= decision.class_id < len(shares) else 0.0
        disagreement = round(1.0 - agreed, 6)
    return Opinion(classes[best], round(float(shares[best]), 6), disagreement)


class Voice:
    """One teacher: an image in, a probability for each of `classes` out."""

    def __init__(self, bundle: Bundle, classes: Sequence[str], threads: int) -> None:
        """Open its fp32 file where it has one. Raises BundleError, RuntimeMissingError."""
        labels, task = bundle.labels(), get_task(bundle.manifest.task)
        if labels is None or not set(labels) <= set(classes):
            raise BundleError(f"{bundle.directory}: its labels are not those of {bundle.manifest.task}")
        variants: Mapping[str, Any] = {variant.precision: variant for variant in reversed(bundle.manifest.variants)}
        variant = variants.get("fp32") or bundle.manifest.variants[0]
        self._places = [classes.index(label) for label in labels]
        self._count = len(classes)
        self._preprocess = task.preprocessor(bundle.manifest)
        postprocess = bundle.manifest.postprocess
        self._is_probabilities = postprocess is not None and "probabilities" in postprocess.params.values()
        self._runner: Runner = open_runner(bundle, variant, threads)

    def __call__(self, image: ImageArray) -> Probabilities:
        """uint8 RGB [height, width, 3] -> float64 [classes], which sum to 1."""
        answer = np.asarray(self._runner.run(self._preprocess(image))[0], dtype=np.float64).reshape(-1)
        if not self._is_probabilities:
            answer = np.exp(answer - answer.max())
        shares = np.zeros(self._count)
        shares[self._places] = answer / answer.sum()
        return shares

    def close(self) -> None:
        """Free the runner."""
        self._runner.close()
