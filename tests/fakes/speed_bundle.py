"""A tiny `traffic-speed` bundle: it forecasts that every sensor keeps its last speed."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from roadloop_models.bundle import Bundle, GoldenSpec, Manifest, TensorSpec, Variant, write_bundle
from roadloop_models.bundle.golden import encode_golden, golden_inputs
from roadloop_models.preprocess import SpeedScale

SENSORS, WINDOW, HORIZON = 207, 12, 12
WEIGHTS = "onnx-int8.onnx"


def speed_bundle(directory: Path, version: str = "last-value-1") -> Bundle:
    """Its one variant is called int8, as a vehicle's slot asks for it, but the file computes in float32."""
    variant = Variant(
        runtime="onnx",
        precision="int8",
        file=WEIGHTS,
        inputs=(
            TensorSpec("speeds", (1, WINDOW, SENSORS), "float32"),
            TensorSpec("time_of_day", (1, 4), "float32"),
        ),
        outputs=(TensorSpec("forecast", (1, SENSORS, HORIZON), "float32"),),
        golden_tolerance=1e-6,
    )
    golden = GoldenSpec(seed=1, count=2, low=(0.0, -1.0), high=(1.0, 1.0), file="golden.npz")
    shapes = tuple(tensor.shape for tensor in variant.inputs)
    outputs = np.stack(
        [
            np.repeat(speeds[:, -1, :, np.newaxis], HORIZON, axis=2)
            for speeds, _ in (tuple(arrays) for arrays in golden_inputs(golden, shapes))
        ]
    )
    manifest = Manifest(
        format=1,
        task="traffic-speed",
        version=version,
        min_agent_version="0.1.0",
        files=(),
        variants=(variant,),
        preprocess=SpeedScale().spec,
        golden=golden,
    )
    files = {WEIGHTS: _onnx_file(), "golden.npz": encode_golden({f"{variant.key}/forecast": outputs})}
    return write_bundle(directory, manifest, files)


def _onnx_file() -> bytes:
    def constant(name: str, values: list[int]) -> object:
        return numpy_helper.from_array(np.array(values, dtype=np.int64), name)

    nodes = [
        # The time of day takes part with a factor of 0: a graph must not leave an input unused.
        helper.make_node("ReduceSum", ["time_of_day", "all"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Gather", ["speeds", "last"], ["newest"], axis=1),
        helper.make_node("Transpose", ["newest"], ["by_sensor"], perm=[0, 2, 1]),
        helper.make_node("Tile", ["by_sensor", "times"], ["repeated"]),
        helper.make_node("Add", ["repeated", "nothing"], ["forecast"]),
    ]
    graph = helper.make_graph(
        nodes,
        "last-value",
        [
            helper.make_tensor_value_info("speeds", TensorProto.FLOAT, (1, WINDOW, SENSORS)),
            helper.make_tensor_value_info("time_of_day", TensorProto.FLOAT, (1, 4)),
        ],
        [helper.make_tensor_value_info("forecast", TensorProto.FLOAT, (1, SENSORS, HORIZON))],
        [
            constant("all", [0, 1]),
            constant("last", [WINDOW - 1]),
            constant("times", [1, 1, HORIZON]),
            numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
