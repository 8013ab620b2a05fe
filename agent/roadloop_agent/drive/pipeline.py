"""A model made ready to drive: its bundle, its runner, and the functions on both sides of it."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadloop_models import __version__
from roadloop_models.bundle import Bundle, Variant
from roadloop_models.bundle.golden import golden_inputs
from roadloop_models.bundle.manifest import CPU_PROVIDERS
from roadloop_models.contract.messages import ReleaseRef
from roadloop_models.errors import BundleError
from roadloop_models.runners import FloatArray, Runner, open_runner
from roadloop_models.sealed import KeyStore
from roadloop_models.tasks import get_task

_LOG = logging.getLogger(__name__)
_WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Model:
    """One version in one runtime, and the functions on both sides of it. One thread runs it."""

    ref: ReleaseRef | None
    bundle: Bundle
    variant: Variant
    runner: Runner
    preprocess: Any
    postprocess: Any

    @property
    def release(self) -> int:
        """The release number; 0 where the bundle was not installed as a release."""
        return 0 if self.ref is None else self.ref.release

    def run(self, inputs: tuple[FloatArray, ...]) -> tuple[FloatArray, ...]:
        """One inference on input tensors. Raises ModelInputError where a shape or dtype does not fit."""
        return self.runner.run(inputs)

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.bundle.manifest.task} {self.bundle.manifest.version} ({self.variant.key})"

    def close(self) -> None:
        """Release the runner."""
        self.runner.close()


def load_model(
    directory: Path,
    variant_key: str,
    ref: ReleaseRef | None = None,
    providers: tuple[str, ...] = CPU_PROVIDERS,
    keys: KeyStore | None = None,
) -> Model:
    """Open one variant of a bundle and run it until it is warm.

    `providers`: what ONNX Runtime is to use, in order of preference; what it lacks it does without, and says so.
    `keys` opens what is sealed.

    Raises BundleError where it is damaged, sealed for another vehicle, not the one `ref` pins, or made for a newer
    agent; VariantMissingError; RuntimeMissingError.
    """
    bundle = Bundle.open(directory, variant_key, keys)
    if ref is not None and bundle.manifest_sha256 != ref.manifest_sha256:
        raise BundleError(f"{directory}: its manifest is not the one that release {ref.release} names")
    wanted = bundle.manifest.min_agent_version
    if _numbers(wanted) > _numbers(__version__):
        raise BundleError(f"{directory}: needs agent {wanted} or newer, this is {__version__}")
    variant = bundle.variant_by_key(variant_key)
    task = get_task(bundle.manifest.task)
    preprocess, postprocess = task.preprocessor(bundle.manifest), task.postprocessor(bundle)
    runner = open_runner(bundle, variant, providers=providers)
    if variant.runtime == "onnx" and (missing := [name for name in providers if name not in runner.providers]):
        _LOG.warning("%s: no %s here; it runs with %s", directory, ", ".join(missing), ", ".join(runner.providers))
    inputs = golden_inputs(bundle.manifest.golden, tuple(tensor.shape for tensor in variant.inputs))[0]
    for _ in range(_WARM_UP_RUNS):
        runner.run(inputs)
    return Model(ref, bundle, variant, runner, preprocess, postprocess)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
