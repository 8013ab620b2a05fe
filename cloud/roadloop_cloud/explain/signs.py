"""traffic-sign: which part of the image the class rests on."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roadloop_cloud.explain.rows import Axes, Infer, Row
from roadloop_models.bundle import Bundle
from roadloop_models.runners import FloatArray
from roadloop_models.tasks.sign_data import load_test_signs

PATCH, STRIDE = 8, 2
"""Pixels: a quarter of the image is hidden at a time."""


class Signs:
    """The number explained is the probability of the class that was called."""

    axes = Axes()
    unit = "probability of the class called"

    def rows(self, bundle: Bundle, data_dir: Path, indices: Sequence[int], infer: Infer) -> list[Row]:
        """Images, titled by what was called and what is right."""
        signs, labels = load_test_signs(data_dir), bundle.labels() or ()
        found = []
        for index in indices:
            image, truth = signs.images[index], int(signs.labels[index])
            called = int(infer(image)[0].reshape(-1).argmax())
            right = "" if called == truth else f", is '{labels[truth]}'"
            found.append(Row(index, f"'{labels[called]}'{right}", image, 0, (called,)))
        return found

    def value(self, outputs: tuple[FloatArray, ...], row: Row) -> float:
        """Softmax probability."""
        logits = outputs[0].reshape(-1).astype(np.float64)
        return float(math.exp(logits[row.place[0]] - logits.max()) / np.exp(logits - logits.max()).sum())

    def occlude(self, row: Row, infer: Infer) -> FloatArray:
        """A patch of the image's mean colour moves over it; each pixel gets the mean fall of the patches on it.

        Zeiler and Fergus, ECCV 2014.
        """
        image: npt.NDArray[np.uint8] = row.item
        height, width, _ = image.shape
        whole = self.value(infer(image), row)
        colour = image.mean(axis=(0, 1)).astype(np.uint8)
        fall, times = np.zeros((height, width)), np.zeros((height, width))
        for top in range(STRIDE - PATCH, height, STRIDE):
            for left in range(STRIDE - PATCH, width, STRIDE):
                part = (slice(max(top, 0), top + PATCH), slice(max(left, 0), left + PATCH))
                hidden = image.copy()
                hidden[part] = colour
                fall[part] += whole - self.value(infer(hidden), row)
                times[part] += 1
        return (fall / times).astype(np.float32)

    def gather(self, attributions: Sequence[FloatArray], row: Row) -> FloatArray:
        """[1, h, w, 3] -> [h, w]."""
        summed: FloatArray = attributions[0][0].sum(axis=2)
        return summed

    def image(self, row: Row) -> npt.NDArray[np.uint8]:
        """The sign."""
        image: npt.NDArray[np.uint8] = row.item
        return image
