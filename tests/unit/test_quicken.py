from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from roadloop_cloud.importing.inspect import inspect_file
from roadloop_cloud.importing.quicken import quicken, quicken_softmax

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
SHAPE = [1, 7, 5, 3]


def _model(nodes: list[Any], opset: int, outputs: dict[str, list[int]]) -> Any:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    given = [helper.make_tensor_value_info("x", kind, SHAPE)]
    graph = helper.make_graph(
        nodes, "g", given, [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _between(
    perm: list[int], axis: int, *, back: list[int] | None = None, outputs: dict[str, list[int]] | None = None
) -> Any:
    """Transpose, softmax, transpose back: as exporters write a softmax over channels before opset 13."""
    back = back or [perm.index(place) for place in range(len(perm))]
    node = onnx.helper.make_node
    nodes = [
        node("Transpose", ["x"], ["a"], perm=perm),
        node("Softmax", ["a"], ["b"], axis=axis),
        node("Transpose", ["b"], ["y"], perm=back),
    ]
    return _model(nodes, 11, outputs or {"y": SHAPE})


def _with_a_graph_within() -> Any:
    """Whose branches name what is between the transpositions."""
    model, helper = _between([0, 3, 2, 1], 3), onnx.helper
    answer = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Identity", ["b"], ["z"])], "branch", [], [answer])
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    model.graph.initializer.append(yes)
    model.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch))
    return model


def _of_another_domain() -> Any:
    model = _between([0, 3, 2, 1], 3)
    model.opset_import[0].domain = "ai.onnx.ml"
    return model


def _answer(model: Any) -> list[npt.NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    answers: list[npt.NDArray[np.float32]] = session.run(None, {"x": values})
    return answers


def _perms(model: Any) -> list[list[int]]:
    return [list(node.attribute[0].ints) for node in model.graph.node if node.op_type == "Transpose"]


@pytest.mark.parametrize("perm", [list(perm) for perm in permutations(range(4))])
def test_a_softmax_between_transpositions_answers_the_same_whatever_their_order_was(perm: list[int]) -> None:
    model = _between(perm, 3)
    before = _answer(model)
    changed = quicken_softmax(model)
    turned, back = _perms(model)
    assert turned[:-1] == sorted(turned[:-1]) and turned[-1] == perm[-1]
    assert [turned[place] for place in back] == [0, 1, 2, 3]
    assert changed == (turned != perm)
    np.testing.assert_array_equal(_answer(model), before)


@pytest.mark.parametrize("axis", [0, 1, 2, -3])
def test_a_softmax_over_an_axis_that_is_not_the_last_is_put_between_transpositions(axis: int) -> None:
    model = _model([onnx.helper.make_node("Softmax", ["x"], ["y"], axis=axis)], 13, {"y": SHAPE})
    before = _answer(model)
    assert quicken_softmax(model) == 1
    assert [node.op_type for node in model.graph.node] == ["Transpose", "Softmax", "Transpose"]
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(_answer(model), before)
    assert quicken_softmax(model) == 0  # and then there is nothing left to do


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: _between([0, 3, 2, 1], 2), id="not over the last axis: all that follow count too"),
        pytest.param(
            lambda: _model([onnx.helper.make_node("Softmax", ["x"], ["y"], axis=1)], 11, {"y": SHAPE}),
            id="before opset 13 over all that follows",
        ),
        pytest.param(
            lambda: _model([onnx.helper.make_node("Softmax", ["x"], ["y"])], 13, {"y": SHAPE}), id="over the last"
        ),
        pytest.param(
            lambda: _between([0, 3, 2, 1], 3, outputs={"y": SHAPE, "b": [1, 3, 5, 7]}),
            id="somebody else wants what is between",
        ),
        pytest.param(
            lambda: _between([0, 3, 2, 1], 3, back=[0, 2, 3, 1], outputs={"y": [1, 5, 7, 3]}),
            id="the second does not undo the first",
        ),
        pytest.param(_with_a_graph_within, id="a graph within names what is between"),
        pytest.param(_of_another_domain, id="no operators of ONNX itself"),
    ],
)
def test_what_would_answer_otherwise_is_left_alone(model: Any) -> None:
    made = model()
    before = made.SerializeToString(deterministic=True)
    assert quicken_softmax(made) == 0
    assert made.SerializeToString(deterministic=True) == before


def test_a_file_is_written_anew_only_where_something_changes(tmp_path: Path) -> None:
    slow, quick = tmp_path / "slow.onnx", tmp_path / "quick.onnx"
    slow.write_bytes(_between([0, 3, 2, 1], 3).SerializeToString())
    written = quicken(inspect_file(slow, "onnx"), quick)
    assert written is not None and written.path == quick
    assert (written.inputs, written.outputs) == (inspect_file(slow, "onnx").inputs, inspect_file(slow, "onnx").outputs)
    assert quicken(written, tmp_path / "again.onnx") is None
    assert not (tmp_path / "again.onnx").exists()
