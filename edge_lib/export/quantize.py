"""Graphs with matrices and tables of embeddings in 8 bits, for fast inference on a CPU.

onnxruntime rounds the input of a matrix with one scale for the whole batch, so that a few large
values cost all others their precision. Smoothing (SmoothQuant, Xiao et al. 2022, arXiv 2211.10438)
divides the columns of the input, multiplies the rows of the matrix instead, and leaves the product
as it is. Where single large values remain, the matrix stays in float32.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge_lib.features.onnx import quiet

Feed = dict[str, np.ndarray]
SHARE = 0.65  # of the difficulty that smoothing moves from the inputs to the matrices
MAX_PEAK = 40  # of an input that is rounded to 8 bits, in root mean squares


def quantize_graph(path: Path, target: Path, feeds: Sequence[Feed] = ()) -> None:
    """Write a graph in 8 bits, one scale a column. feeds: typical inputs; without, nothing is
    smoothed.
    """
    from onnxruntime.quantization import quantize_dynamic

    model = onnx.load(path)
    del model.graph.value_info[:]  # types, of which some change
    kept = smooth(model, feeds) if feeds else []
    shrink_tables(model)
    with quiet():  # it recommends another optimiser
        # convolutions in 8 bits do not run in onnxruntime
        types = ["MatMul", "Gemm"]
        quantize_dynamic(model, target, types, per_channel=True, nodes_to_exclude=kept)


def smooth(model: ModelProto, feeds: Sequence[Feed]) -> list[str]:
    """Smooth the inputs of all constant matrices; names of those to keep in float32."""
    weights = _weights(model)
    products, kept, divisions = defaultdict(list), [], {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            products[node.input[0]].append(node)
    for name, rows in _values(model, list(products), feeds).items():
        nodes = products[name]
        matrices = [numpy_helper.to_array(weights[node.input[1]]) for node in nodes]
        scales = _scales(rows, matrices)
        smoothed = rows / scales
        if np.abs(smoothed).max() > MAX_PEAK * np.sqrt(np.square(smoothed).mean()):
            kept += [node.name for node in nodes]
            continue
        factors = numpy_helper.from_array(1 / scales, f"{name}.factors")
        divisions[name] = helper.make_node("Mul", [name, factors.name], [f"{name}.smooth"])
        model.graph.initializer.append(factors)
        for node, matrix in zip(nodes, matrices, strict=True):
            tensor = numpy_helper.from_array(matrix * scales[:, None], node.input[1])
            weights[node.input[1]].CopyFrom(tensor)
            node.input[0] = f"{name}.smooth"
    _insert(model, divisions)
    return kept


def shrink_tables(model: ModelProto) -> None:
    """Tables of embeddings in int8, with a scale a row; onnxruntime's own have one a table."""
    weights, nodes = _weights(model), []
    for node in model.graph.node:
        table = weights.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type != TensorProto.FLOAT or len(table.dims) != 2:
            nodes.append(node)
            continue
        rows, (name, ids, output) = numpy_helper.to_array(table), (*node.input, *node.output)
        scales = np.abs(rows).max(1, keepdims=True).clip(1e-12) / 127
        table.CopyFrom(numpy_helper.from_array(np.int8(np.rint(rows / scales)), name))
        model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scales"))
        nodes += [
            helper.make_node("Gather", [name, ids], [f"{output}.int8"]),
            helper.make_node("Gather", [f"{name}.scales", ids], [f"{output}.scale"]),
            helper.make_node("Cast", [f"{output}.int8"], [f"{output}.float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{output}.float", f"{output}.scale"], [output]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _weights(model: ModelProto) -> dict[str, TensorProto]:
    """The constants that one node needs, by name."""
    uses = Counter(name for node in model.graph.node for name in node.input)
    return {tensor.name: tensor for tensor in model.graph.initializer if uses[tensor.name] == 1}


def _values(model: ModelProto, names: list[str], feeds: Sequence[Feed]) -> dict[str, np.ndarray]:
    """Rows (N, K) of the tensors of these names, for all feeds."""
    import onnxruntime

    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options)
    outputs = zip(*(session.run(names, feed) for feed in feeds), strict=True)
    parts = ([x.reshape(-1, x.shape[-1]) for x in values] for values in outputs)
    return {name: np.concatenate(rows) for name, rows in zip(names, parts, strict=True)}


def _scales(rows: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """(K,) divisors of the input's columns."""
    largest = np.max([np.abs(matrix).max(1) for matrix in matrices], axis=0)
    scales = np.abs(rows).max(0).clip(1e-5) ** SHARE / largest.clip(1e-5) ** (1 - SHARE)
    return scales.astype(np.float32)


def _insert(model: ModelProto, divisions: dict[str, NodeProto]) -> None:
    """Each node before the first that needs it: the nodes of a graph are in order."""
    nodes, waiting = [], {node.output[0]: node for node in divisions.values()}
    for node in model.graph.node:
        nodes += [waiting.pop(name) for name in node.input if name in waiting]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
