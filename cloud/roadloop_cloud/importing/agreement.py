"""What quantization cost and gained: the int8 file beside the float file, on images that calibration has not seen."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roadloop_models.detect import Detections, Detector
from roadloop_models.detect.average_precision import matches
from roadloop_models.preprocess import FloatArray, ImageArray, Preprocessor
from roadloop_models.runners import Runner

MIN_IOU = 0.5
_TIMED_RUNS = 30


@dataclass(frozen=True)
class Agreement:
    """The two files compared."""

    images: int
    measure: str
    value: float
    """0 to 1."""
    decisions_fp32: int
    decisions_int8: int
    speed_ratio: float
    """Time of the int8 file / time of the float file, medians of interleaved runs on this machine, one thread."""


def compare(
    float_runner: Runner, int8_runner: Runner, preprocess: Preprocessor, postprocess: Any, images: Sequence[ImageArray]
) -> Agreement:
    """Run both over the images. Detectors: F1 of their boxes, else the share of images with the same class."""
    inputs = [preprocess(image) for image in images]
    decide: Callable[[tuple[FloatArray, ...], ImageArray], Any]
    if isinstance(postprocess, Detector):
        measure, decide = (
            f"F1 of boxes, overlap {MIN_IOU:g}",
            lambda outputs, image: postprocess(outputs, *image.shape[:2]),
        )
    else:
        measure, decide = "share of images with the same class", lambda outputs, image: postprocess(outputs)
    pairs = [
        (decide(float_runner.run(tensors), image), decide(int8_runner.run(tensors), image))
        for tensors, image in zip(inputs, images, strict=True)
    ]
    value, of_float, of_int8 = _boxes(pairs) if isinstance(postprocess, Detector) else _classes(pairs)
    return Agreement(len(images), measure, value, of_float, of_int8, _speed_ratio(float_runner, int8_runner, inputs[0]))


def _boxes(pairs: list[tuple[Detections, Detections]]) -> tuple[float, int, int]:
    """(F1, boxes of the float file, boxes of the int8 file); F1 is 1 where neither finds anything."""
    same = sum(int(matches(quantized, full, MIN_IOU).sum()) for full, quantized in pairs)
    of_float, of_int8 = sum(len(full) for full, _ in pairs), sum(len(quantized) for _, quantized in pairs)
    return (2 * same / (of_float + of_int8) if of_float + of_int8 else 1.0), of_float, of_int8


def _classes(pairs: list[tuple[Any, Any]]) -> tuple[float, int, int]:
    same = sum(full.class_id == quantized.class_id for full, quantized in pairs)
    return same / len(pairs), len(pairs), len(pairs)


def _speed_ratio(float_runner: Runner, int8_runner: Runner, tensors: tuple[FloatArray, ...]) -> float:
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(_TIMED_RUNS):
        for runner, times in zip((float_runner, int8_runner), spent, strict=True):
            started = time.perf_counter()
            runner.run(tensors)
            times.append(time.perf_counter() - started)
    return float(np.median(spent[1]) / np.median(spent[0]))
