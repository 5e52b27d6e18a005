"""Graphs in 8 bits: what smoothing changes and what not, and tables of embeddings."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from edge_lib.export.quantize import quantize_graph, shrink_tables, smooth

ROWS, WIDTH = 64, 32


def normal(*shape):
    """The same normal values in every test."""
    return np.random.default_rng(0).normal(size=shape).astype("f4")


def model(nodes, constants, inputs, outputs, type=1):
    values = [helper.make_tensor_value_info(name, type, None) for name in inputs]
    results = [helper.make_tensor_value_info(name, 1, None) for name in outputs]
    tensors = [numpy_helper.from_array(x, name) for name, x in constants.items()]
    graph = helper.make_graph(nodes, "small", values, results, tensors)
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, ir_version=10, opset_imports=opset)


def products(outputs=("y", "z")):
    """One input of two matrices, and a matrix that two inputs share."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"], "a"),
        helper.make_node("MatMul", ["x", "b"], ["xb"], "b"),
        helper.make_node("MatMul", ["xa", "shared"], ["y"], "y"),
        helper.make_node("MatMul", ["xb", "shared"], ["z"], "z"),
    ]
    matrices = dict(zip("ab", normal(2, WIDTH, WIDTH), strict=True))
    matrices["shared"] = np.eye(WIDTH, dtype="f4")
    return model(nodes, matrices, ["x"], outputs)


def inputs(column=1.0, cell=0.0):
    """Normal values; one column times `column`, one value plus `cell`."""
    x = normal(ROWS, WIDTH)
    x[:, 3] *= column
    x[5, 7] += cell
    return {"x": x}


def run(content, feed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options).run(None, feed)


def error(path, feed, expected):
    return max(np.abs(a - b).mean() for a, b in zip(run(path, feed), expected, strict=True))


def test_smoothing_leaves_the_products_as_they_are():
    original, feed = products(), inputs(column=200)
    smoothed = onnx.ModelProto()
    smoothed.CopyFrom(original)
    assert smooth(smoothed, [feed, inputs(column=200)]) == []
    assert sum(node.op_type == "Mul" for node in smoothed.graph.node) == 1, "shared by a and b"
    expected = run(original.SerializeToString(), feed)
    for result, other in zip(run(smoothed.SerializeToString(), feed), expected, strict=True):
        np.testing.assert_allclose(result, other, rtol=1e-4, atol=1e-3)


def test_smoothing_halves_the_error_of_a_large_column(tmp_path):
    original, feed = products(["xa", "xb"]), inputs(column=200)
    onnx.save(original, tmp_path / "graph.onnx")
    expected = run(original.SerializeToString(), feed)
    quantize_graph(tmp_path / "graph.onnx", tmp_path / "plain.onnx")
    quantize_graph(tmp_path / "graph.onnx", tmp_path / "smooth.onnx", [inputs(column=200)])
    errors = [error(tmp_path / f"{name}.onnx", feed, expected) for name in ("plain", "smooth")]
    assert errors[1] < errors[0] / 2


def test_matrix_after_a_single_large_value_stays_in_float32(tmp_path):
    original, feed = products(), inputs(cell=1e5)
    onnx.save(original, tmp_path / "graph.onnx")
    quantize_graph(tmp_path / "graph.onnx", tmp_path / "int8.onnx", [feed])
    kept = {node.name for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert {"a", "b"} <= kept


@pytest.mark.parametrize("uses", [1, 2])
def test_table_of_embeddings_is_int8_within_half_a_step(uses):
    table = normal(100, WIDTH) * np.exp(normal(100, 1))
    table[4] = 0
    names = ["first", "second"][:uses]
    nodes = [helper.make_node("Gather", ["table", "ids"], [name]) for name in names]
    small = model(nodes, {"table": table}, ["ids"], names, type=7)
    shrink_tables(small)
    ids = np.array([[0, 4, 99], [7, 7, 50]])
    steps = np.abs(table[ids]).max(-1, keepdims=True) / 127
    for rows in run(small.SerializeToString(), {"ids": ids}):
        assert (np.abs(rows - table[ids]) <= steps / 2 + 1e-6).all()
    types = {t.name: t.data_type for t in small.graph.initializer}
    assert types["table"] == (onnx.TensorProto.INT8 if uses == 1 else onnx.TensorProto.FLOAT)
