"""The graphs of a model: what each computes, inputs to trace it with, and names.

Files and outputs have the names that transformers.js gives to those of CLIP, CLAP and LLaVA.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_lib.config import ConfigError
from edge_lib.data.encoder_output import MultimodalOutput
from edge_lib.data.vocabulary import BOS
from edge_lib.features.encoder import load_encoder, run_encoder
from edge_lib.features.onnx import Axes, example_inputs
from edge_lib.models import Aligner, QAModel
from edge_lib.models.prefix_sources import FUSED, PrefixSources
from edge_lib.models.vlm import VLM
from edge_lib.nn.decoders.base import Cache, Decoder

NAMES = {"vision": "image", "text": "text", "audio": "audio", FUSED: FUSED}  # of outputs
PREFIX = "encoder_hidden_states", "encoder_attention_mask"
Tensors = dict[str, Tensor]


@dataclass
class Graph:
    """A module of one dict of tensors, with arguments of `features.onnx.write_graph`."""

    module: nn.Module
    inputs: Tensors
    axes: Axes
    outputs: tuple[str, ...]
    defaults: Tensors = field(default_factory=dict)


class SequenceGraph(nn.Module):
    """A modality's encoder and head: inputs of B items -> sequence (B, L, D) and mask (B, L)."""

    def __init__(self, aligner: Aligner, modality: str):
        super().__init__()
        aligner.check_encoder(modality)
        self.encoder = load_encoder(modality, aligner.modalities[modality].encoder_config)
        self.head = deepcopy(aligner.heads[modality]).cpu().eval()
        self.window, self.width = aligner.token_window, aligner.width

    def encode(self, inputs: Tensors) -> tuple[Tensor, Tensor, Tensor]:
        """Sequence (B, L, D), its mask (B, L) and the embedding (B, D), not normalised."""
        output = run_encoder(self.encoder, inputs, "fp32", self.window)
        sequence, embedding = self.head(output)
        return sequence, self.head.sequence_mask(output), embedding

    def forward(self, inputs: Tensors) -> tuple[Tensor, Tensor]:
        return self.encode(inputs)[:2]


class EmbeddingGraph(SequenceGraph):
    """Inputs of B items -> embeddings (B, dim) of unit length; `dim` () is an input as well."""

    def forward(self, inputs: Tensors) -> Tensor:
        dim = inputs["dim"].item()
        torch._check(dim >= 1)
        torch._check(dim <= self.width)
        features = {name: value for name, value in inputs.items() if name != "dim"}
        return F.normalize(self.encode(features)[2][:, :dim], dim=1)


class SoftTokenGraph(nn.Module):
    """Inputs of N items, or of N images and N clips that are fused -> soft tokens (N, T, W) for a
    language model, and their mask (N, T).
    """

    def __init__(self, sources: PrefixSources, source: str, projector: nn.Module):
        super().__init__()
        self.source, self.sources = source, deepcopy(sources).cpu().float()
        self.projector = deepcopy(projector).cpu().float().eval()
        modalities = sources.aligner.modalities
        for name in (names := sources.modalities(source)):
            sources.aligner.check_encoder(name)
        encoders = {name: load_encoder(name, modalities[name].encoder_config) for name in names}
        self.encoders = nn.ModuleDict(encoders)
        self.examples = {name: example_inputs(name, x) for name, x in encoders.items()}

    def forward(self, inputs: Tensors) -> tuple[Tensor, Tensor]:
        outputs, window = {}, self.sources.aligner.token_window
        for name, encoder in self.encoders.items():
            own = {key: inputs[key] for key in self.examples[name][0]}
            outputs[name] = run_encoder(encoder, own, "fp32", window)
        features = MultimodalOutput(outputs) if self.source == FUSED else outputs[self.source]
        kind = self.projector.input_kind
        vectors, mask = self.sources.vectors(self.source, kind, features)
        return self.projector(vectors), mask.repeat_interleave(self.projector.num_tokens, 1)


class AnswerGraph(nn.Module):
    """A decoder without a cache: logits (B, A, V) of the token after each of the answer's, which
    begin with BOS; one question for each prefix, or no prefix.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = deepcopy(decoder).cpu().eval()

    def forward(self, inputs: Tensors) -> Tensor:
        questions = inputs["question_ids"]
        prefix = [inputs[name] for name in PREFIX if name in inputs] or self._no_prefix(questions)
        context = self.decoder.read_context(*prefix, questions)
        states = self.decoder.read_answer(inputs["decoder_input_ids"], context, Cache())
        return self.decoder.head(states[-1])

    def _no_prefix(self, questions: Tensor) -> list[Tensor]:
        mask = questions[:, :0].bool()
        return [mask[..., None].float().expand(-1, -1, self.decoder.project[0].in_features), mask]


@singledispatch
def model_graphs(model: nn.Module) -> dict[str, Graph]:
    """The graphs of a model, by the name of their file."""
    raise ConfigError(f"{type(model).__name__} has no ONNX export; Aligner, QAModel and VLM have")


@model_graphs.register
def _(model: Aligner) -> dict[str, Graph]:
    model.check_pooled("an ONNX export")
    graphs = {}
    for name in model.modalities:
        module = EmbeddingGraph(model, name)
        inputs, axes = example_inputs(name, module.encoder)
        dim = {"dim": torch.tensor(module.width)}
        outputs = (f"{NAMES[name]}_embeds",)
        graphs[f"{name}_model"] = Graph(module, inputs | dim, axes, outputs, dim)
    return graphs


@model_graphs.register
def _(model: QAModel) -> dict[str, Graph]:
    if not model.vision:
        return {"decoder_model": _answer_graph(model.decoder, {})}
    encoder = SequenceGraph(model.aligner, "vision")
    inputs, axes = example_inputs("vision", encoder.encoder)
    with torch.no_grad():
        prefix = dict(zip(PREFIX, encoder(inputs), strict=True))
    return {
        "encoder_model": Graph(encoder, inputs, axes, PREFIX),
        "decoder_model": _answer_graph(model.decoder, prefix),
    }


def _answer_graph(decoder: Decoder, prefix: Tensors) -> Graph:
    ids = torch.full((3, 5), BOS)
    inputs = prefix | {"question_ids": ids, "decoder_input_ids": ids[:, :4]}
    axes = {name: {0: "batch"} for name in prefix}
    axes |= {"question_ids": {0: "batch", 1: "question"}}
    axes |= {"decoder_input_ids": {0: "batch", 1: "answer"}}
    return Graph(AnswerGraph(decoder), inputs, axes, ("logits",))


@model_graphs.register
def _(model: VLM) -> dict[str, Graph]:
    graphs = {}
    for name, projector in model.projectors.items():
        source = model.config.prefix_sources[name]
        module, inputs, axes = SoftTokenGraph(model.prefix_sources, source, projector), {}, {}
        for own_inputs, own_axes in module.examples.values():
            inputs, axes = inputs | own_inputs, axes | own_axes
        outputs = f"{NAMES[source]}_features", f"{NAMES[source]}_mask"
        graphs[f"{source}_encoder"] = Graph(module, inputs, axes, outputs)
    return graphs
