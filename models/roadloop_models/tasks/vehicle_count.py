"""vehicle-count: which vehicles pass a line of a fixed camera's picture, and in which direction."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.counting.counter import Counter, Crossing
from roadloop_models.counting.foreground import ForegroundPair
from roadloop_models.counting.heat import HeatBoxes
from roadloop_models.counting.lines import MIDDLE, Line
from roadloop_models.counting.watcher import Watcher
from roadloop_models.detect import Detector, ImageLetterbox, open_detector
from roadloop_models.errors import BundleError, DataError
from roadloop_models.preprocess import ImageArray, preprocess_of
from roadloop_models.runners import Runner
from roadloop_models.tasks.base import Evaluation, Part, Progress, no_progress
from roadloop_models.tasks.clip_data import TrueCrossing, load_clips, write_clip
from roadloop_models.tasks.made_traffic import MadeClip, MadeVehicle
from roadloop_models.tasks.made_truth import made_truth

TOLERANCE_FRAMES = 2
"""A crossing is found where it is told of a frame this near to the true one, in the same direction."""
MADE_TOLERANCE_FRAMES = 6
"""In made clips: there traffic is slower, in frames, than in the real one."""
MADE_SEED, MADE_CLIPS, MADE_FRAMES = 3_000_000, 12, 100
"""The held-out made clips that every evaluation counts too; training draws from other seeds."""
MADE_SIZES = ((384, 216), (320, 240), (384, 216), (256, 256), (384, 216), (216, 384))


class VehicleCount:
    """Traffic management from a fixed camera: a network finds vehicles, code follows and counts them.

    The protocol: every crossing of the middle line in the counted clips, frame within two of the truth, same
    direction; each told crossing can be right for one true one only. The same over held-out made clips, frame within
    six, each with a line across its traffic.
    """

    name = "vehicle-count"
    metric = "crossings_f1"
    higher_is_better = True

    def preprocessor(self, manifest: Manifest) -> ForegroundPair | ImageLetterbox:
        """What `Watcher.look` applies to frames. Raises BundleError where the manifest names another function."""
        return preprocess_of(manifest, ForegroundPair, ImageLetterbox)

    def postprocessor(self, bundle: Bundle) -> HeatBoxes | Detector:
        """(output tensors, height and width of the frame) -> `Detections`. Raises BundleError where they do not fit."""
        preprocess = self.preprocessor(bundle.manifest)
        if isinstance(preprocess, ImageLetterbox):
            return open_detector(bundle, preprocess)
        wanted = [preprocess.input_shape]
        for variant in bundle.manifest.variants:
            if [tensor.shape for tensor in variant.inputs] != wanted:
                raise BundleError(f"{bundle.directory}: {variant.key}: inputs are not {wanted[0]}, as preprocess makes")
            if [tensor.shape for tensor in variant.outputs] != [HeatBoxes.output_shape(preprocess)]:
                raise BundleError(
                    f"{bundle.directory}: {variant.key}: outputs are not one of {HeatBoxes.output_shape(preprocess)}"
                )
        return HeatBoxes(preprocess)

    def evaluate(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, progress: Progress = no_progress
    ) -> Evaluation:
        """`crossings_found`, `_missed`, `_extra` and `frame_error_mean` over all counted clips below video/;
        `made_precision` and `made_recall` over the held-out made ones. Raises DataError naming file and field."""
        clips = load_clips(data_dir)
        steps = len(clips) + MADE_CLIPS
        found = missed = extra = 0
        errors: list[int] = []
        for index, clip in enumerate(clips):
            told = self._count(bundle, runner, clip.frames(), (MIDDLE,))
            near = matched(told, clip.crossings, TOLERANCE_FRAMES)
            found, missed = found + len(near), missed + len(clip.crossings) - len(near)
            extra += len(told) - len(near)
            errors += [abs(crossing.frame - true.frame) for crossing, true in near]
            progress(index + 1, steps)
        hits = wanted = answered = 0
        for index in range(MADE_CLIPS):
            width, height = MADE_SIZES[index % len(MADE_SIZES)]
            made = MadeClip(MADE_SEED + index, MADE_FRAMES, width, height)
            vehicles: list[tuple[MadeVehicle, ...]] = []
            told = self._count(bundle, runner, _watched(made, vehicles), (made.line,))
            truth = made_truth(vehicles, made.line, width, height)
            told = truth.judged(told)
            near = matched(told, truth.crossings, MADE_TOLERANCE_FRAMES)
            hits, wanted, answered = hits + len(near), wanted + len(truth.crossings), answered + len(told)
            progress(len(clips) + index + 1, steps)
        metrics = {
            "crossings_f1": 2 * found / (2 * found + missed + extra) if found + missed + extra else 1.0,
            "crossings_found": float(found),
            "crossings_missed": float(missed),
            "crossings_extra": float(extra),
            "frame_error_mean": sum(errors) / len(errors) if errors else float("nan"),
            "made_precision": hits / answered if answered else 0.0,
            "made_recall": hits / wanted,
        }
        return Evaluation(metrics, found + missed + wanted)

    def _count(
        self, bundle: Bundle, runner: Runner, frames: Iterable[ImageArray], lines: Sequence[Line]
    ) -> list[Crossing]:
        preprocess, postprocess = self.preprocessor(bundle.manifest), self.postprocessor(bundle)
        watcher, counter = Watcher(), Counter(lines)
        told: list[Crossing] = []
        for number, frame in enumerate(frames):
            height, width, _ = frame.shape
            found = postprocess(runner.run(watcher.look(frame, preprocess)), height, width)
            told += counter.step(number, found, height, width)
        return told

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Raises DataError: training draws its own clips."""
        raise DataError("vehicle-count trains on clips that are drawn from the run's seed; no rows are taken from data")

    def write_made_data(self, directory: Path, seed: int) -> None:
        """Draw counted clips. They are for testing; training draws its own."""
        for index in range(2):
            clip = MadeClip(seed + index, 40, 192, 108)
            vehicles: list[tuple[MadeVehicle, ...]] = []
            frames = list(_watched(clip, vehicles))
            truth = made_truth(vehicles, MIDDLE, clip.width, clip.height)
            write_clip(directory, f"made-{index + 1}", frames, truth.crossings)


def _watched(clip: MadeClip, vehicles: list[tuple[MadeVehicle, ...]]) -> Iterator[ImageArray]:
    """The images of a made clip; what is in each is added to `vehicles`."""
    for frame in clip:
        vehicles.append(frame.vehicles)
        yield frame.image


def matched(
    told: Sequence[Crossing], truth: Sequence[TrueCrossing], tolerance_frames: int
) -> list[tuple[Crossing, TrueCrossing]]:
    """Pairs of a told and a true crossing of the same direction, nearest first, each used once."""
    pairs = [
        (abs(crossing.frame - true.frame), first, second)
        for first, crossing in enumerate(told)
        for second, true in enumerate(truth)
        if crossing.direction == true.direction and abs(crossing.frame - true.frame) <= tolerance_frames
    ]
    used_told: set[int] = set()
    used_truth: set[int] = set()
    near = []
    for _, first, second in sorted(pairs):
        if first not in used_told and second not in used_truth:
            used_told.add(first)
            used_truth.add(second)
            near.append((told[first], truth[second]))
    return near
