"""From a detector's output tensors to what is in the image: decode, suppress, back to pixels of the image."""

import numpy as np

from roadloop_models.bundle import Bundle
from roadloop_models.bundle.manifest import Postprocess
from roadloop_models.detect.decode import Decoder, Shapes, build_decoder
from roadloop_models.detect.detections import Detections, FloatArray
from roadloop_models.detect.letterbox import ImageLetterbox, Placement
from roadloop_models.detect.nms import suppress
from roadloop_models.errors import BundleError, FailedError

MAX_IOU = "max_iou"
DEFAULT_MAX_IOU = 0.45


class Detector:
    """Output tensors of one image of height x width pixels -> `Detections` in pixels of that image."""

    def __init__(self, decoder: Decoder, letterbox: ImageLetterbox, max_iou: float, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._decoder = decoder
        self._letterbox = letterbox
        self._max_iou = max_iou
        self._placed: Placement | None = None

    def misfit(self, shapes: Shapes) -> str | None:
        """What outputs of these shapes should have been; None where they fit."""
        return self._decoder.misfit(shapes, len(self.labels))

    def __call__(self, outputs: tuple[FloatArray, ...], height: int, width: int) -> Detections:
        """Raises FailedError where the model answers with what is not finite, or with a class that has no label."""
        found = suppress(self._decoder(outputs), self._max_iou)
        if not len(found):
            return found
        if not np.isfinite(found.boxes).all():
            raise FailedError("the model answers with boxes that are not finite")
        if found.classes.view(np.uint64).max() >= len(self.labels):  # unsigned: a class below 0 is none either
            raise FailedError(f"the model answers a class beyond the {len(self.labels)} labels of the bundle")
        placed = self._placed
        if placed is None or (placed.image_height, placed.image_width) != (height, width):
            placed = self._placed = self._letterbox.placement(height, width)
        return placed.to_image(found)


def build_detector(spec: Postprocess, letterbox: ImageLetterbox, labels: tuple[str, ...]) -> Detector:
    """The detector that a manifest describes. `max_iou` is a parameter of every decoding. Raises BundleError."""
    params = dict(spec.params)
    max_iou = params.pop(MAX_IOU, DEFAULT_MAX_IOU)
    if not isinstance(max_iou, int | float) or not 0 < max_iou <= 1:
        raise BundleError(
            f"manifest.json: postprocess: params: {MAX_IOU} is {max_iou!r}, expected more than 0, up to 1"
        )
    decoder = build_decoder(Postprocess(spec.name, params), letterbox.height, letterbox.width)
    return Detector(decoder, letterbox, float(max_iou), labels)


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
