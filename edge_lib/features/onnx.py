"""ONNX graphs: traced from any module, and frozen encoders that run through onnxruntime.

A graph is traced once; its axes in `axes` take any size when it runs.
"""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from edge_lib.config import MODALITIES, EncoderConfig
from edge_lib.config.registry import load_registered
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.encoder import Encoder
from edge_lib.features.weights import encoder_fingerprint
from edge_lib.runs.files import whole_folder
from edge_lib.runs.lock import hold_lock

OPSET = 20  # the first with Gelu
Axes = dict[str, dict[int, str]]  # for each input, the names of the axes of any size


def write_graph(
    module: nn.Module,
    inputs: dict[str, Tensor],
    axes: Axes,
    outputs: Sequence[str],
    path: Path,
    defaults: dict[str, Tensor] | None = None,
    **metadata: str,
) -> None:
    """Trace `module(inputs)` and write it as an ONNX model, of over 2 GB with a file of weights.

    An axis of any size must not have size 0 or 1 in `inputs`, nor that of another axis: tracing
    would take it as fixed. defaults: inputs that may be left out, and their values then.
    """
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            kwargs={"inputs": inputs},
            input_names=[*inputs],
            output_names=[*outputs],
            dynamic_shapes={"inputs": {name: axes.get(name, {}) for name in inputs}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    graph = program.model.graph
    for node in graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with paths of this machine
    for value in graph.inputs:
        if value.name in (defaults or {}):
            _set_default(graph, value, defaults[value.name])
    program.model.metadata_props.update(opset=str(OPSET), torch=torch.__version__, **metadata)
    program.save(path)


def _set_default(graph, value, default: Tensor) -> None:
    import onnx_ir

    value.const_value = onnx_ir.tensor(default.numpy(), name=value.name)
    graph.register_initializer(value)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's warnings of optional packages and of axes that share a name."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)


def example_inputs(modality: str, encoder: Encoder) -> tuple[dict[str, Tensor], Axes]:
    """Inputs of a frozen encoder to trace it with, and their axes of any size."""
    blank = load_registered(MODALITIES[modality].blank)()
    items = [blank] * 3 if encoder.fixed_length else ["a few words", "a", "a few words more"]
    inputs = encoder.prepare(items)
    axes = {0: "batch"} if encoder.fixed_length else {0: "batch", 1: "sequence"}
    return inputs, dict.fromkeys(inputs, axes)


class EncoderGraph(nn.Module):
    """A frozen encoder's tokens, their mask, and its pooled vector."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        output = self.encoder(**inputs)
        return output.tokens, output.mask, output.pooled


class OnnxEncoder(Encoder):
    """A frozen encoder whose forward pass runs through onnxruntime, in float32 on the CPU.

    Its graph is written once, to `<cache_dir>/onnx/<modality>-<fingerprint>/model.onnx`.
    """

    def __init__(self, modality: str, encoder: Encoder, config: EncoderConfig, cache_dir: Path):
        nn.Module.__init__(self)
        self.encoder, self.has_grid = encoder, encoder.has_grid
        inputs, axes = example_inputs(modality, encoder)
        self.grid = encoder(**inputs).grid
        digest = hashlib.sha256(encoder_fingerprint(config).encode()).hexdigest()[:16]
        folder = cache_dir / "onnx" / f"{modality}-{digest}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder.with_suffix(".lock")):  # processes that are launched together
            if not folder.is_dir():
                print(f"{modality}: writing the encoder's graph to {folder}", flush=True)
                with whole_folder(folder) as temporary:
                    outputs = ("tokens", "mask", "pooled")
                    graph = EncoderGraph(encoder)
                    write_graph(graph, inputs, axes, outputs, temporary / "model.onnx")
        self.path = folder / "model.onnx"

    def prepare(self, items) -> dict[str, Tensor]:
        return self.encoder.prepare(items)

    def truncates(self, item) -> bool:
        return self.encoder.truncates(item)

    def forward(self, **inputs: Tensor) -> EncoderOutput:
        feed = {name: value.numpy() for name, value in inputs.items()}
        outputs = open_session(self.path).run(None, feed)
        tokens, mask, pooled = map(torch.from_numpy, outputs)
        return EncoderOutput(tokens, mask, pooled, self.grid)


def open_session(path: Path):
    """An onnxruntime session on as many CPU threads as torch has, which share its processes'."""
    return _session(path, torch.get_num_threads())


@cache
def _session(path: Path, threads: int):
    from edge_lib.features.onnx_session import make_session  # onnxruntime may not be installed

    return make_session(path, threads)
