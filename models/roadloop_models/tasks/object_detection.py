"""object-detection: boxes around what a detector knows, whoever trained it."""

from pathlib import Path

import numpy as np

from roadloop_models.bundle import Bundle, Manifest, Variant
from roadloop_models.detect import Detections, Detector, ImageLetterbox, open_detector
from roadloop_models.detect.average_precision import average_precision
from roadloop_models.errors import DataError
from roadloop_models.preprocess import preprocess_of
from roadloop_models.runners import Runner
from roadloop_models.tasks.base import Evaluation, Part, Progress, no_progress
from roadloop_models.tasks.object_data import ANNOTATIONS_FILE, FOLDER, load_objects, write_made_objects

MIN_IOU = 0.5


class ObjectDetection:
    """Detectors are imported, not trained here.

    The protocol is mean average precision at an overlap of 0.5 on the user's own images, at the score threshold of the
    bundle: detections below it are never made, so the figure is lower than one that begins at score 0.
    """

    name = "object-detection"
    metric = "map50"
    higher_is_better = True

    def preprocessor(self, manifest: Manifest) -> ImageLetterbox:
        """uint8 RGB [h, w, 3] -> input tensors. Raises BundleError where the manifest names another function."""
        return preprocess_of(manifest, ImageLetterbox)

    def postprocessor(self, bundle: Bundle) -> Detector:
        """(output tensors, height and width of the image) -> `Detections`. Raises BundleError where they do not fit."""
        return open_detector(bundle, self.preprocessor(bundle.manifest))

    def evaluate(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, progress: Progress = no_progress
    ) -> Evaluation:
        """`map50` over the drawn classes that the model knows, and `objects`, their number.

        Raises DataError naming file and field, or where the model knows none of the drawn classes.
        """
        rows = load_objects(data_dir)
        preprocess, detector = self.preprocessor(bundle.manifest), self.postprocessor(bundle)
        shared = [label for label in rows.labels if label in detector.labels]
        if not shared:
            raise DataError(
                f"{data_dir / FOLDER / ANNOTATIONS_FILE}: its categories are {', '.join(rows.labels)}; the model knows "
                f"{', '.join(detector.labels)}"
            )
        found = []
        for index, image in enumerate(rows.images()):
            found.append(detector(runner.run(preprocess(image)), *image.shape[:2]))
            progress(index + 1, len(rows))
        truth = [_relabelled(drawn, rows.labels, detector.labels) for drawn in rows.truth]
        by_class = [average_precision(found, truth, detector.labels.index(label), MIN_IOU) for label in shared]
        known = sum(index >= 0 for drawn in truth for index in drawn.classes)
        if known == 0:
            raise DataError(f"{data_dir / FOLDER / ANNOTATIONS_FILE}: has no box of {', '.join(shared)}")
        return Evaluation({"map50": float(np.nanmean(by_class)), "objects": float(known)}, len(rows))

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Raises DataError: there is no training of detectors here."""
        raise DataError("object-detection is not trained here; import a detector with 'roadloop models import --help'")

    def write_made_data(self, directory: Path, seed: int) -> None:
        """Draw red and green blocks, and say where they are."""
        write_made_objects(directory, seed)


def _relabelled(drawn: Detections, labels: tuple[str, ...], known: tuple[str, ...]) -> Detections:
    """The drawn boxes with the model's classes; -1 where it does not know the label."""
    places = [known.index(label) if label in known else -1 for label in labels]
    return Detections(drawn.boxes, drawn.scores, [places[index] for index in drawn.classes])
