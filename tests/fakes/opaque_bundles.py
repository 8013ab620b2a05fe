"""Bundles whose weights are seeded noise: for tests that move, sign and store bundles and never run them."""

import random
from pathlib import Path

from roadloop_models.bundle import Bundle, GoldenSpec, Manifest, Preprocess, TensorSpec, Variant, write_bundle
from roadloop_models.contract.messages import ReleaseRef

TASK = "traffic-sign"
VARIANT = "onnx-int8"


def opaque_bundle(
    directory: Path,
    version: str,
    weights_bytes: int = 2_000,
    task: str = TASK,
    min_agent_version: str = "0.1.0",
    tuned_from: Bundle | None = None,
) -> Bundle:
    """A bundle with an `onnx-int8` and a `tflite-int8` variant of that size, different for every version.

    With `tuned_from` its weights are those of that bundle, a tenth of their bytes moved by one.
    `labels.txt` and the training weights are the same in all of them.
    """

    def noise(name: str, size_bytes: int) -> bytes:
        seeded = random.Random(f"{name} of {version}")
        if tuned_from is not None and name.startswith("model."):
            before = tuned_from.path(name).read_bytes()
            return bytes((value + (seeded.random() < 0.1)) % 256 for value in before)
        return seeded.randbytes(size_bytes)

    def variant(runtime: str) -> Variant:
        return Variant(
            runtime=runtime,  # type: ignore[arg-type]
            precision="int8",
            file=f"model.{runtime}",
            inputs=(TensorSpec("image", (1, 3, 32, 32), "float32"),),
            outputs=(TensorSpec("logits", (1, 43), "float32"),),
            golden_tolerance=1e-3,
        )

    manifest = Manifest(
        format=1,
        task=task,
        version=version,
        min_agent_version=min_agent_version,
        files=(),
        variants=(variant("onnx"), variant("tflite")),
        preprocess=Preprocess("sign-standardize"),
        golden=GoldenSpec(seed=0, count=1, low=(-3.0,), high=(3.0,), file="golden.npz"),
        labels="labels.txt",
        training_weights="training.bin",
    )
    files = {
        "model.onnx": noise("model.onnx", weights_bytes),
        "model.tflite": noise("model.tflite", weights_bytes),
        "golden.npz": noise("golden.npz", 300),
        "labels.txt": b"stop\nyield\n",
        "training.bin": bytes(100),
    }
    return write_bundle(directory, manifest, files)


def release_ref(bundle: Bundle, release: int) -> ReleaseRef:
    """The release that names this bundle."""
    manifest = bundle.manifest
    return ReleaseRef(
        task=manifest.task, release=release, version=manifest.version, manifest_sha256=bundle.manifest_sha256
    )
