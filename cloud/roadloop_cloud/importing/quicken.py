"""Rewriting what ONNX Runtime is slow at in a stranger's file, where the answers stay the same to the last bit.

A softmax over channels (axis 1 of [batch, channels, height, width]) is computed by turning the channels last and back.
ONNX Runtime does that itself for a later opset, and exporters wrote it into the file for an earlier one, both in orders
of the other axes that its transposition has no quick way for. With the other axes left in their order it has one. Which
order they are in is all the same to a softmax.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from roadloop_cloud.importing.inspect import ModelFile, inspect_file

SOFTMAX_NOTE = "A softmax over channels was written as ONNX Runtime computes it faster; what it answers is the same."
_SOFTMAX_BY_AXIS = 13
"""The opset since which a softmax is over one axis whatever follows it."""


def quicken(file: ModelFile, target: Path) -> ModelFile | None:
    """An ONNX file written anew to `target`; None where there is nothing to rewrite."""
    import onnx

    model = onnx.load(str(file.path))
    if not quicken_softmax(model):
        return None
    target.write_bytes(model.SerializeToString(deterministic=True))
    return inspect_file(target, "onnx")


def quicken_softmax(model: Any) -> int:
    """Rewrite the softmaxes of an onnx.ModelProto in place; how many."""
    import onnx

    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is None or any(part.HasField("g") or part.graphs for node in graph.node for part in node.attribute):
        return 0  # a graph within the graph may name what is between two transpositions
    ranks = _ranks(onnx.shape_inference.infer_shapes(model).graph)
    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter([*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)])
    takers = {name: node for node in graph.node for name in node.input}
    count = 0
    for node in [node for node in graph.node if node.op_type == "Softmax"]:
        rank = ranks.get(node.input[0], 0)
        axis = _attribute(node, "axis", -1 if opset >= _SOFTMAX_BY_AXIS else 1)
        axis = axis + rank if axis < 0 else axis
        before, after = makers.get(node.input[0]), takers.get(node.output[0])
        alone = uses[node.input[0]] == uses[node.output[0]] == 1
        if axis == rank - 1 and alone and _turn_and_back(before, after):
            count += _reorder(before, after)
        elif axis < rank - 1 and opset >= _SOFTMAX_BY_AXIS and rank > 3:
            _surround(graph, node, axis, rank)
            count += 1
    return count


def _turn_and_back(before: Any, after: Any) -> bool:
    """Whether these are two transpositions, the second of which undoes the first."""
    if before is None or after is None or before.op_type != "Transpose" or after.op_type != "Transpose":
        return False
    turned, back = _attribute(before, "perm", None), _attribute(after, "perm", None)
    return turned is not None and back is not None and back == _inverse(turned)


def _reorder(before: Any, after: Any) -> bool:
    """Leave the other axes in their order; False where they are."""
    turned = _attribute(before, "perm", None)
    better = _axis_last(turned[-1], len(turned))
    if turned == better:
        return False
    _set_perm(before, better)
    _set_perm(after, _inverse(better))
    return True


def _surround(graph: Any, node: Any, axis: int, rank: int) -> None:
    """Put a softmax over the last axis between two transpositions in the place of one over another axis."""
    from onnx import helper

    turned, source, answer = _axis_last(axis, rank), node.input[0], node.output[0]
    inside, outside = f"{answer}_turned", f"{answer}_over_last"
    new = [
        helper.make_node("Transpose", [source], [inside], perm=turned),
        helper.make_node("Softmax", [inside], [outside], name=node.name, axis=rank - 1),
        helper.make_node("Transpose", [outside], [answer], perm=_inverse(turned)),
    ]
    place = list(graph.node).index(node)
    graph.node.remove(node)
    for offset, one in enumerate(new):
        graph.node.insert(place + offset, one)


def _axis_last(axis: int, rank: int) -> list[int]:
    return [*(other for other in range(rank) if other != axis), axis]


def _inverse(perm: list[int]) -> list[int]:
    return sorted(range(len(perm)), key=perm.__getitem__)


def _ranks(graph: Any) -> dict[str, int]:
    """Tensor name -> number of its axes, where that is known."""
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values if value.type.tensor_type.shape.dim}


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    found = next((attribute for attribute in node.attribute if attribute.name == name), None)
    value = default if found is None else helper.get_attribute_value(found)
    return list(value) if isinstance(value, tuple) else value


def _set_perm(node: Any, perm: list[int]) -> None:
    found = next(attribute for attribute in node.attribute if attribute.name == "perm")
    del found.ints[:]
    found.ints.extend(perm)
