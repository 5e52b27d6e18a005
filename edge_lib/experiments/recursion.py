"""What goes on between the steps of a decoder: the answer so far, and where it looks."""

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
    """Of each step, the answers (B) that the head would read there, given the final answer's tokens
    so far."""
    states = _states(model, images, questions, max_tokens)
    return [model.vocabulary.decode(model.decoder.head(state).argmax(-1)) for state in states]


@torch.no_grad()
def attention_by_step(
    model: QAModel, images: EncoderOutput, questions: Sequence[str], max_tokens: int
) -> Tensor:
    """(steps, B, P) how much the first answer row of the last layer attends to each prefix vector,
    averaged over heads."""
    count = model.prefix(images)[0].shape[1]
    with _watched(model.decoder.stack.layers[-1]) as seen:
        steps = len(_states(model, images, questions, max_tokens))
    return torch.stack([weights[:, :, 0, :count].mean(1) for weights in seen[-steps:]])


def _states(model: QAModel, images: EncoderOutput, questions: Sequence[str], max_tokens: int):
    ids = pad(model.vocabulary.encode(questions)).to(model.decoder.head.weight.device)
    prefix = model.prefix(images)
    answer = model.decoder.generate(*prefix, ids, max_tokens)
    return model.decoder.states(*prefix, ids, answer)


@contextmanager
def _watched(layer: Layer) -> Iterator[list[Tensor]]:
    """Within, the list gets the layer's attention weights (B, H, S, E + S) of every pass."""
    layer.seen = []
    try:
        yield layer.seen
    finally:
        layer.seen = None
