"""What both runners do with tensors: check inputs, quantize, dequantize."""

from typing import Any

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle.manifest import Quantization, TensorSpec
from roadloop_models.errors import ModelInputError
from roadloop_models.runners import FloatArray

_FLOAT32 = np.dtype(np.float32)


class InputCheck:
    """Compares the inputs of a call with what the model takes; cheap enough for every frame."""

    def __init__(self, specs: tuple[TensorSpec, ...]) -> None:
        self._specs = specs
        self._shapes = [spec.shape for spec in specs]

    def __call__(self, inputs: tuple[FloatArray, ...]) -> None:
        """Raises ModelInputError naming the tensor."""
        if [array.shape for array in inputs] == self._shapes and all(array.dtype == _FLOAT32 for array in inputs):
            return
        if len(inputs) != len(self._specs):
            raise ModelInputError(f"{len(inputs)} input arrays, the model takes {len(self._specs)}")
        for array, spec in zip(inputs, self._specs, strict=True):
            if array.shape != spec.shape or array.dtype != _FLOAT32:
                raise ModelInputError(
                    f"input '{spec.name}' is {array.dtype} {list(array.shape)}, expected float32 {list(spec.shape)}"
                )


def quantize(values: FloatArray, quantization: Quantization, dtype: str) -> npt.NDArray[np.int8 | np.uint8]:
    """Real values to stored integers, rounded half to even and saturated: the inverse of `dequantize`."""
    limits = np.iinfo(dtype)
    stored = values * np.float32(1.0 / quantization.scale)
    stored += np.float32(quantization.zero_point)
    np.rint(stored, out=stored)
    stored.clip(np.float32(limits.min), np.float32(limits.max), out=stored)
    return stored.astype(dtype)


def dequantize(stored: npt.NDArray[np.int8 | np.uint8], quantization: Quantization) -> FloatArray:
    """Stored integers to real values: scale * (stored - zero_point)."""
    values = stored.astype(np.float32)
    values -= np.float32(quantization.zero_point)
    values *= np.float32(quantization.scale)
    return values


def to_stored(values: FloatArray, spec: TensorSpec) -> npt.NDArray[Any]:
    """Real values as the file takes them."""
    if spec.dtype == "float32":
        return values
    if spec.quantization is not None:
        return quantize(values, spec.quantization, spec.dtype)
    return np.rint(values).astype(spec.dtype)


def to_real(stored: npt.NDArray[Any], spec: TensorSpec) -> FloatArray:
    """What the file answers as real values. (Classes and counts may be int64: exact up to 2^24.)"""
    if spec.quantization is not None:
        return dequantize(stored, spec.quantization)
    return stored if spec.dtype == "float32" else stored.astype(np.float32)
