"""Notebook 03: the answers and the attention of a decoder at each step of its recursion."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.vocabulary import pad
from edge_lib.models import QAModel
from edge_lib.nn.decoders.blocks import Layer


@torch.no_grad()
def answers_by_step(
    model: QAModel, images: EncoderOutput, questions: Sequence[str], max_tokens: int
) -> list[list[str]]:
    """For each step, the answers (B) that the head would give, after the final answer's tokens."""
    states = _states(model, images, questions, max_tokens)
    return [model.vocabulary.decode(model.decoder.head(state).argmax(-1)) for state in states]


@torch.no_grad()
def attention_by_step(
    model: QAModel, images: EncoderOutput, questions: Sequence[str], max_tokens: int
) -> Tensor:
    """(steps, B, P) attention of the first answer row to each prefix vector, in the last layer,
    averaged over heads.
    """
    length = model.prefix(images)[0].shape[1]
    with _recorded_attention(model.decoder.stack.layers[-1]) as recorded:
        steps = len(_states(model, images, questions, max_tokens))
    return torch.stack([weights[:, :, 0, :length].mean(1) for weights in recorded[-steps:]])


def _states(model: QAModel, images: EncoderOutput, questions: Sequence[str], max_tokens: int):
    ids = pad(model.vocabulary.encode(questions)).to(model.device)
    prefix = model.prefix(images)
    answer = model.decoder.generate(*prefix, ids, max_tokens)
    return model.decoder.states(*prefix, ids, answer)


@contextmanager
def _recorded_attention(layer: Layer) -> Iterator[list[Tensor]]:
    """Within the context, the list gets the layer's attention weights (B, H, S, E + S)."""
    layer.recorded = []
    try:
        yield layer.recorded
    finally:
        layer.recorded = None
