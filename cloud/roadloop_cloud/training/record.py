"""What has to be known to train a version again: seed, recipe, environment and code. No torch here.

Nothing in it names a machine, a person or a time: equal runs have equal records.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.resources
import platform
from functools import cache
from typing import TYPE_CHECKING, Any

from roadloop_cloud.training.spec import TrainingSpec
from roadloop_models.bundle.manifest import TrainingRecord

if TYPE_CHECKING:
    from roadloop_cloud.training.train import Recipe

CODE = ("roadloop_cloud.training", "roadloop_models")
PACKAGES = (
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "torch",
    "torchao",
)
"""What decides the weights and the files made of them."""


def training_record(spec: TrainingSpec, recipe: "Recipe", best_epoch: int, refitted: bool) -> TrainingRecord:
    """The record of one run."""
    return TrainingRecord(
        seed=spec.seed,
        recipe=recipe_values(recipe),
        best_epoch=best_epoch,
        refitted=refitted,
        replay_share=spec.replay_share,
        executor=spec.executor,
        workers=spec.workers,
        threads=spec.threads,
        code_version=importlib.metadata.version("roadloop"),
        code_sha256=code_sha256(),
        python=platform.python_version(),
        platform=f"{platform.system()}-{platform.machine()}".lower(),
        packages=packages(),
    )


def recipe_values(recipe: "Recipe") -> dict[str, Any]:
    """The recipe as plain values."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(recipe).items()
    }


def packages() -> dict[str, str]:
    """Versions of those of PACKAGES that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_sha256() -> str:
    """SHA-256 over the Python files that make a model of rows, by name and content, as they are installed."""
    digest = hashlib.sha256()
    for package in CODE:
        root = importlib.resources.files(package)
        with importlib.resources.as_file(root) as folder:
            for path in sorted(folder.rglob("*.py")):
                content = path.read_bytes()
                digest.update(f"{package}/{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()
