"""From what a model answers to what the vehicle acts on."""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from roadloop_models.errors import ModelInputError

FloatArray = npt.NDArray[np.float32]
_LEAST_SHARE = 1e-30
"""A probability of 0 has no logarithm."""


class SignClass(msgspec.Struct, frozen=True, gc=False):
    """One classified sign."""

    class_id: int
    label: str
    confidence: float
    """Softmax probability of the class, 0 to 1; NaN where the logits are not finite."""
    margin: float
    """The confidence minus the probability of the second-best class."""


class Classify:
    """Logits, or `probabilities`, float32 [1, classes] -> `SignClass`."""

    def __init__(self, labels: tuple[str, ...], probabilities: bool = False) -> None:
        self._labels = labels
        self._probabilities = probabilities

    def __call__(self, outputs: tuple[FloatArray, ...]) -> SignClass:
        logits = outputs[0].reshape(-1).tolist()  # for a few dozen classes quicker than numpy's own functions
        if len(logits) != len(self._labels):
            raise ModelInputError(f"the model answers {len(logits)} logits for {len(self._labels)} labels")
        if self._probabilities:
            logits = [math.log(max(share, _LEAST_SHARE)) for share in logits]
        best = max(logits)
        class_id = logits.index(best)
        confidence = 1.0 / sum([math.exp(logit - best) for logit in logits])
        logits[class_id] = -math.inf
        margin = confidence * (1.0 - math.exp(max(logits) - best))
        return SignClass(class_id, self._labels[class_id], confidence, margin)


class SpeedForecast:
    """Scaled speeds float32 [1, sensors, horizon] -> mph float32 [sensors, horizon], not below 0."""

    def __init__(self, scale_mph: float) -> None:
        self._scale_mph = np.float32(scale_mph)

    def __call__(self, outputs: tuple[FloatArray, ...]) -> FloatArray:
        forecast: FloatArray = outputs[0][0] * self._scale_mph
        np.maximum(forecast, np.float32(0.0), out=forecast)
        return forecast


class FlowForecast:
    """Scaled count float32 [1, 1] -> vehicles in the next step, a float not below 0; NaN where it is not finite."""

    def __init__(self, scale_veh: float) -> None:
        self._scale_veh = scale_veh

    def __call__(self, outputs: tuple[FloatArray, ...]) -> float:
        forecast = float(outputs[0].reshape(-1)[0]) * self._scale_veh
        return max(forecast, 0.0) if math.isfinite(forecast) else math.nan
