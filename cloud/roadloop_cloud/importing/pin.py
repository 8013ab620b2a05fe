"""Fixing what an ONNX file leaves open: a vehicle runs one image of one size at a time."""

from pathlib import Path
from typing import Any

from roadloop_cloud.importing.inspect import ModelFile, inspect_file, made_inputs
from roadloop_models.errors import ConfigError, DataError, RuntimeMissingError


def is_open(file: ModelFile) -> bool:
    """Whether a dimension of its inputs or outputs is not fixed."""
    return any(None in tensor.dims for tensor in (*file.inputs, *file.outputs))


def pin(file: ModelFile, size: tuple[int, int] | None, target: Path) -> ModelFile:
    """Write `file` to `target` with every dimension fixed: batch 1, height and width from `size` where they are open.

    Raises ConfigError where the size is open and not given, DataError where the number of answers depends on the
    image, RuntimeMissingError without the onnx package.
    """
    if file.runtime != "onnx":
        raise DataError(f"{file.path}: {file}: has open dimensions; export the TFLite file with fixed ones")
    onnx = _onnx()
    shapes = [_fixed(file, tensor.dims, size) for tensor in file.inputs]
    model = onnx.load(str(file.path))
    by_name = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    for tensor, shape in zip(file.inputs, shapes, strict=True):
        _set_shape(by_name[tensor.name], shape)
    found = _answered(file, model.SerializeToString(), shapes)
    for output in file.outputs:
        _set_shape(by_name[output.name], found[output.name])
    del model.graph.value_info[:]
    target.write_bytes(model.SerializeToString(deterministic=True))
    return inspect_file(target, "onnx")


def _fixed(file: ModelFile, dims: tuple[int | None, ...], size: tuple[int, int] | None) -> tuple[int, ...]:
    if len(dims) != 4:
        raise DataError(f"{file.path}: {file}; expected one image as input, of 4 dimensions")
    fixed = [1 if dims[0] is None else dims[0], *dims[1:]]
    height_at = 1 if dims[3] == 3 else 2
    if None in (fixed[height_at], fixed[height_at + 1]) and size is None:
        raise ConfigError(f"{file.path}: {file}: its image size is open; give --size HEIGHTxWIDTH")
    for place, chosen in zip((height_at, height_at + 1), size or (0, 0), strict=True):
        if fixed[place] is None:
            fixed[place] = chosen
    return tuple(3 if dim is None else dim for dim in fixed)


def _answered(file: ModelFile, content: bytes, shapes: list[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Output name -> the shape that it has whatever the input."""
    import numpy as np
    import onnxruntime

    names = [tensor.name for tensor in file.outputs]
    seen = []
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        for noise in made_inputs(shapes):
            feeds = {
                tensor.name: values.astype(np.dtype(tensor.dtype))
                for tensor, values in zip(file.inputs, noise, strict=True)
            }
            seen.append([tuple(answer.shape) for answer in session.run(names, feeds)])
    except Exception as error:  # ONNX Runtime's own exceptions share no other base class.
        raise DataError(f"{file.path}: cannot be run with inputs of {shapes}: {error}") from error
    for name, first, other in zip(names, *seen, strict=True):
        if first != other or 0 in first:
            raise DataError(
                f"{file.path}: output '{name}' is {list(first)} for one image and {list(other)} for another; export "
                "it with a fixed number of answers"
            )
    return dict(zip(names, seen[0], strict=True))


def _set_shape(value: Any, shape: tuple[int, ...]) -> None:
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for size in shape:
        dims.add().dim_value = size


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise RuntimeMissingError(f"the onnx package cannot be imported ({error}); install roadloop[train]") from error
    return onnx
