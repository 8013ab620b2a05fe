"""A bundle that computes the same as another one, and takes its time."""

import hashlib
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from roadloop_models.bundle import Bundle, FileEntry, encode_manifest
from tests.fakes.bundles import WEIGHTS


def slowed_bundle(bundle: Bundle, directory: Path, products: int = 12) -> Bundle:
    """The same outputs, after as many products of large matrices that count for nothing."""
    model = onnx.load(str(bundle.path(WEIGHTS)))
    graph = model.graph
    (image,), (logits,) = graph.input, graph.output
    large = np.random.default_rng(5).normal(0.0, 0.01, size=(256, 256)).astype(np.float32)
    graph.initializer.extend(
        [numpy_helper.from_array(large, "large"), numpy_helper.from_array(np.zeros(1, np.float32), "nothing")]
    )
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == logits.name:
                node.output[index] = "fast_logits"
    graph.node.append(helper.make_node("ReduceMean", [image.name], ["mean"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["large", "mean"], ["product_0"]))
    for number in range(products):
        graph.node.append(helper.make_node("MatMul", [f"product_{number}", "large"], [f"product_{number + 1}"]))
    graph.node.append(helper.make_node("ReduceSum", [f"product_{products}"], ["sum"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["sum", "nothing"], ["zero"]))
    graph.node.append(helper.make_node("Add", ["fast_logits", "zero"], [logits.name]))
    shutil.copytree(bundle.directory, directory)
    content = model.SerializeToString()
    (directory / WEIGHTS).write_bytes(content)
    entries = tuple(
        FileEntry(WEIGHTS, hashlib.sha256(content).hexdigest(), len(content)) if entry.path == WEIGHTS else entry
        for entry in bundle.manifest.files
    )
    raw = encode_manifest(msgspec.structs.replace(bundle.manifest, version="slow-1", files=entries))
    (directory / "manifest.json").write_bytes(raw)
    return Bundle.open(directory)
