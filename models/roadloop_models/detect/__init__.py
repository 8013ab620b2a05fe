"""Detection: from a detector's output tensors, whoever made it, to boxes in pixels of the original image."""

from roadloop_models.detect.detections import NOTHING, Detections

__all__ = ["NOTHING", "Detections"]
