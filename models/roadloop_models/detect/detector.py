"""From a detector's output tensors to what is in the image: decode, suppress, back to pixels of the image."""

import math
from dataclasses import dataclass, fields

from roadloop_models.bundle import Bundle
from roadloop_models.bundle.manifest import Postprocess
from roadloop_models.detect.decode import Decoder, Shapes, build_decoder
from roadloop_models.detect.detections import Detections, FloatArray
from roadloop_models.detect.letterbox import ImageLetterbox, Placement
from roadloop_models.detect.nms import suppress
from roadloop_models.errors import BundleError, FailedError

DEFAULT_MIN_SCORE, DEFAULT_MAX_IOU = 0.35, 0.45


@dataclass(frozen=True)
class Thresholds:
    """Parameters that every decoding has: from which score a detection counts, and how far two may overlap."""

    min_score: float = DEFAULT_MIN_SCORE
    max_iou: float = DEFAULT_MAX_IOU

    def __post_init__(self) -> None:
        """Raises BundleError naming the one that is out of range."""
        for name, value in vars(self).items():
            if not isinstance(value, int | float) or not 0 < value <= 1:
                raise BundleError(f"manifest.json: postprocess: params: {name} is {value!r}, expected above 0, up to 1")


class Detector:
    """Output tensors of one image of height x width pixels -> `Detections` in pixels of that image."""

    def __init__(
        self, decoder: Decoder, letterbox: ImageLetterbox, thresholds: Thresholds, labels: tuple[str, ...]
    ) -> None:
        self.labels = labels
        self._decoder = decoder
        self._letterbox = letterbox
        self._thresholds = thresholds
        self._placed: Placement | None = None

    def misfit(self, shapes: Shapes) -> str | None:
        """What outputs of these shapes should have been; None where they fit."""
        return self._decoder.misfit(shapes, len(self.labels))

    def __call__(self, outputs: tuple[FloatArray, ...], height: int, width: int) -> Detections:
        """Raises FailedError where the model answers with what is not finite, or with a class that has no label."""
        thresholds = self._thresholds
        found = suppress(self._decoder(outputs), thresholds.max_iou, thresholds.min_score)
        if not len(found):
            return found
        if not math.isfinite(sum(map(sum, found.boxes))):
            raise FailedError("the model answers with boxes that are not finite")
        if not 0 <= min(found.classes) <= max(found.classes) < len(self.labels):
            raise FailedError(f"the model answers a class beyond the {len(self.labels)} labels of the bundle")
        placed = self._placed
        if placed is None or (placed.image_height, placed.image_width) != (height, width):
            placed = self._placed = self._letterbox.placement(height, width)
        return placed.to_image(found)


def build_detector(spec: Postprocess, letterbox: ImageLetterbox, labels: tuple[str, ...]) -> Detector:
    """The detector that a manifest describes. Raises BundleError."""
    params = dict(spec.params)
    given = {field.name: params.pop(field.name) for field in fields(Thresholds) if field.name in params}
    thresholds = Thresholds(**given)  # type: ignore[arg-type]
    params["min_score"] = thresholds.min_score
    decoder = build_decoder(Postprocess(spec.name, params), letterbox.height, letterbox.width)
    return Detector(decoder, letterbox, thresholds, labels)


def open_detector(bundle: Bundle, letterbox: ImageLetterbox) -> Detector:
    """The detector of a bundle: what its manifest says of postprocessing, checked against every variant's outputs.

    Raises BundleError where the manifest has no postprocess or labels, or the outputs do not fit them.
    """
    manifest = bundle.manifest
    labels = bundle.labels()
    if manifest.postprocess is None or labels is None:
        missing = "postprocess" if manifest.postprocess is None else "labels"
        raise BundleError(f"{bundle.directory}: manifest.json: '{missing}' is missing; {manifest.task} needs it")
    detector = build_detector(manifest.postprocess, letterbox, labels)
    for variant in manifest.variants:
        inputs, outputs = [tensor.shape for tensor in variant.inputs], [tensor.shape for tensor in variant.outputs]
        if inputs != [letterbox.input_shape]:
            raise BundleError(
                f"{bundle.directory}: {variant.key}: inputs are {inputs}, its preprocessing makes "
                f"{letterbox.input_shape}"
            )
        expected = detector.misfit(outputs)
        if expected is not None:
            raise BundleError(
                f"{bundle.directory}: {variant.key}: outputs are {outputs}; {manifest.postprocess.name} with "
                f"{len(labels)} labels takes {expected}"
            )
    return detector
