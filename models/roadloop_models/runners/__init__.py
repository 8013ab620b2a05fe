"""Runners: the one way to execute a model file. The vehicle drives with them and the cloud evaluates with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from roadloop_models.bundle.bundle import Bundle
from roadloop_models.bundle.manifest import CPU_PROVIDERS, TensorSpec, Variant
from roadloop_models.errors import BundleError

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelFile:
    """A model file in memory, in clear, and what to call it in messages. Runtimes never read files themselves."""

    name: str
    content: bytes

    @classmethod
    def read(cls, path: Path) -> "ModelFile":
        """From a file in clear. Raises BundleError where it cannot be read."""
        try:
            return cls(str(path), path.read_bytes())
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror or error}") from error


class Runner(Protocol):
    """A loaded model. Not thread-safe: one inference thread owns it."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes, in order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns, in order."""

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers or delegates that the session really got."""

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """One inference: float32 arrays of the inputs' shapes to float32 arrays of the outputs' shapes.

        Where the file has integer inputs or outputs they are quantized and dequantized here.
        Raises ModelInputError where a shape or dtype does not fit.
        """

    def close(self) -> None:
        """Release the session."""


def open_runner(
    bundle: Bundle, variant: Variant, threads: int = 1, providers: tuple[str, ...] = CPU_PROVIDERS
) -> Runner:
    """Load one variant of a bundle; imports its runtime only now. `providers`: ONNX Runtime's, in order of preference.

    Raises RuntimeMissingError where the runtime is not installed or does not work here, BundleError where the file
    does not have the tensors that the manifest promises, or is sealed and cannot be opened here.
    """
    file = ModelFile(str(bundle.path(variant.file)), bundle.read(variant.file))
    return _open(file, variant, threads, providers)


def open_file(path: Path, variant: Variant, threads: int = 1, providers: tuple[str, ...] = CPU_PROVIDERS) -> Runner:
    """Load one model file that is described by `variant`; raises as `open_runner`."""
    return _open(ModelFile.read(path), variant, threads, providers)


def _open(file: ModelFile, variant: Variant, threads: int, providers: tuple[str, ...]) -> Runner:
    if variant.runtime == "onnx":
        from roadloop_models.runners.onnx import OnnxRunner

        return OnnxRunner(file, variant, threads, providers)
    from roadloop_models.runners.tflite import TfliteRunner

    return TfliteRunner(file, variant, threads)
