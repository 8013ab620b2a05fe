"""Detection: from a detector's output tensors, whoever made it, to boxes in pixels of the original image."""

from roadloop_models.detect.detections import NOTHING, Detections
from roadloop_models.detect.detector import Detector, build_detector, open_detector
from roadloop_models.detect.letterbox import ImageLetterbox

__all__ = ["NOTHING", "Detections", "Detector", "ImageLetterbox", "build_detector", "open_detector"]
