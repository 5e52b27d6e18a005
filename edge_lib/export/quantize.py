"""Graphs with matrices in 8 bits, for fast inference on a CPU."""

from pathlib import Path

from edge_lib.features.onnx import quiet


def quantize_graph(path: Path, target: Path) -> None:
    """Write a graph with the matrices of its linear layers in int8, one scale a column."""
    from onnxruntime.quantization import quantize_dynamic

    with quiet():  # it recommends another optimiser
        # convolutions in 8 bits do not run in onnxruntime
        quantize_dynamic(path, target, ["MatMul", "Gemm"], per_channel=True)
