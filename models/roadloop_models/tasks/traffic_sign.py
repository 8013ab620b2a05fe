"""traffic-sign: which of 43 German traffic signs an image shows (GTSRB at 32x32)."""

import math
from pathlib import Path

from roadloop_models.bundle import Bundle, Manifest, Postprocess, Variant
from roadloop_models.detect import ImageLetterbox
from roadloop_models.errors import BundleError
from roadloop_models.postprocess import Classify
from roadloop_models.preprocess import ImageStandardize, build_preprocess
from roadloop_models.runners import Runner
from roadloop_models.tasks.base import Evaluation, Part, Progress, no_progress
from roadloop_models.tasks.made_signs import made_signs
from roadloop_models.tasks.sign_data import (
    FOLDER,
    TEST_FILE,
    TRAIN_FILE,
    load_test_signs,
    load_training_signs,
    write_signs,
)

MADE_TRACKS = 12
MADE_TEST_TRACKS = 8
_PROGRESS_ROWS = 256
_LOGITS = Postprocess("classify", {"scores": "logits"})
_PROBABILITIES = Postprocess("classify", {"scores": "probabilities"})
"""What an imported bundle says of its classifier; the project's own say nothing and answer logits."""


class TrafficSign:
    """Camera perception by a CNN. The protocol is top-1 accuracy over the test images, one frame at a time."""

    name = "traffic-sign"
    metric = "accuracy"
    higher_is_better = True

    def preprocessor(self, manifest: Manifest) -> ImageStandardize | ImageLetterbox:
        """uint8 RGB [h, w, 3] -> input tensors. Raises BundleError where the manifest names another function."""
        preprocess = build_preprocess(manifest.preprocess)
        if not isinstance(preprocess, ImageStandardize | ImageLetterbox):
            raise BundleError(f"manifest of {manifest.task} {manifest.version}: preprocess is not for images")
        return preprocess

    def postprocessor(self, bundle: Bundle) -> Classify:
        """Output tensors -> `SignClass`. Raises BundleError without labels, or where scores are not as many."""
        labels, postprocess = bundle.labels(), bundle.manifest.postprocess
        if labels is None:
            raise BundleError(f"{bundle.directory}: manifest.json: 'labels' is missing; signs are classes")
        for variant in bundle.manifest.variants:
            shape = variant.outputs[0].shape
            if math.prod(shape) != len(labels):
                raise BundleError(
                    f"{bundle.directory}: {variant.key}: answers {list(shape)}, expected a score for each of "
                    f"{len(labels)} labels"
                )
        if postprocess is None or postprocess == _LOGITS:
            return Classify(labels)
        if postprocess == _PROBABILITIES:
            return Classify(labels, probabilities=True)
        raise BundleError(f"{bundle.directory}: manifest.json: postprocess: {postprocess} is none of a classifier")

    def evaluate(
        self, bundle: Bundle, variant: Variant, runner: Runner, data_dir: Path, progress: Progress = no_progress
    ) -> Evaluation:
        """`accuracy` (0 to 1) on every image of test_a.npz. Raises DataError naming file and field."""
        rows = load_test_signs(data_dir)
        preprocess, postprocess = self.preprocessor(bundle.manifest), self.postprocessor(bundle)
        hits = 0
        for index, (image, label) in enumerate(zip(rows.images, rows.labels, strict=True)):
            hits += int(postprocess(runner.run(preprocess(image))).class_id == label)
            if index % _PROGRESS_ROWS == 0:
                progress(index, len(rows))
        progress(len(rows), len(rows))
        return Evaluation({"accuracy": hits / len(rows)}, len(rows))

    def write_part(self, data_dir: Path, part: Part, directory: Path) -> int:
        """Write one part of the training images as a snapshot; returns the number of images."""
        rows = load_training_signs(data_dir, part)
        write_signs(directory / FOLDER / TRAIN_FILE, rows)
        return len(rows)

    def write_made_data(self, directory: Path, seed: int) -> None:
        """Draw signs: train.npz with tracks of several frames, test_a.npz of other tracks."""
        write_signs(directory / FOLDER / TRAIN_FILE, made_signs(MADE_TRACKS, 5, seed))
        write_signs(directory / FOLDER / TEST_FILE, made_signs(MADE_TEST_TRACKS, 1, seed + 1), with_tracks=False)
