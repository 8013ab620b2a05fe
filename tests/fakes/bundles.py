"""Tiny bundles, made by seeded code: a linear model in a real ONNX file, with golden vectors that it reproduces."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from roadloop_models.bundle import Bundle, GoldenSpec, Lineage, Manifest, Preprocess, TensorSpec, Variant, write_bundle
from roadloop_models.bundle.golden import FloatArray, encode_golden, golden_inputs
from roadloop_models.preprocess import ImageStandardize

CLASSES = 43
SHAPE = (1, 32, 32, 3)
WEIGHTS = "onnx-int8.onnx"


def tiny_bundle(
    directory: Path,
    version: str = "tiny-1",
    seed: int = 0,
    scale: float = 1.0,
    preprocess: Preprocess | None = None,
    *,
    nudge: float = 0.0,
    lineage: Lineage | None = None,
    weights: FloatArray | None = None,
) -> Bundle:
    """A `traffic-sign` bundle of 24 kB whose logits are a seeded matrix times the mean of each 4x4 patch.

    Its one variant is called int8, as a vehicle's slot asks for it, but the file computes in float32. With a small
    `scale` it is unsure of everything. `nudge` is added to its first weight. Another `preprocess` may make tensors that
    it does not take. Other `weights`, float32 [features, CLASSES], may be what something was learned by.
    """
    if weights is None:
        weights = np.random.default_rng(seed).normal(0.0, scale, size=(3 * 8 * 8, CLASSES)).astype(np.float32)
        weights[0, 0] += nudge
    variant = Variant(
        runtime="onnx",
        precision="int8",
        file=WEIGHTS,
        inputs=(TensorSpec("image", SHAPE, "float32"),),
        outputs=(TensorSpec("logits", (1, CLASSES), "float32"),),
        golden_tolerance=1e-3,
    )
    golden = GoldenSpec(seed=seed, count=4, low=(-3.0,), high=(3.0,), file="golden.npz")
    outputs = np.stack([_logits(inputs[0], weights) for inputs in golden_inputs(golden, (SHAPE,))])
    manifest = Manifest(
        format=1,
        task="traffic-sign",
        version=version,
        min_agent_version="0.1.0",
        files=(),
        variants=(variant,),
        preprocess=preprocess or ImageStandardize().spec,
        golden=golden,
        labels="labels.txt",
        lineage=lineage or Lineage(),
    )
    files = {
        WEIGHTS: _onnx_file(weights),
        "golden.npz": encode_golden({f"{variant.key}/logits": outputs}),
        "labels.txt": "".join(f"class {index}\n" for index in range(CLASSES)).encode(),
    }
    return write_bundle(directory, manifest, files)


def features(images: FloatArray) -> FloatArray:
    """What the model sees of standardized images [n, 32, 32, 3]: means of patches, float32 [n, 192]."""
    patches = images.transpose(0, 3, 1, 2).reshape(-1, 3, 8, 4, 8, 4).mean(axis=(3, 5))
    return np.asarray(patches.reshape(len(images), -1), dtype=np.float32)


def _logits(image: FloatArray, weights: FloatArray) -> FloatArray:
    return np.asarray(features(image) @ weights, dtype=np.float32)


def _onnx_file(weights: FloatArray) -> bytes:
    nodes = [
        helper.make_node("Transpose", ["image"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels_first"], ["patches"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["patches"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, CLASSES))],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
