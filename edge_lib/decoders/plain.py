"""The plain decoder: one pass through its layers."""

import torch
from torch import Tensor

from edge_lib.decoders.base import Cache, Context, Decoder


class PlainDecoder(Decoder):
    """A decoder-only transformer whose prefix and question are read in both directions."""

    def read_answer(self, inputs: Tensor, context: Context, cache: Cache) -> list[Tensor]:
        """Inputs (B, A, W) -> [states (B, A, W)]."""
        place = torch.arange(inputs.shape[1], device=inputs.device) + cache.length
        cache.length += inputs.shape[1]
        return [self.read_pass(inputs, place, context, cache, 0)]

    def layer_tokens(self, context: float, answer: float) -> float:
        """Rows that pass through a layer, over all layers: what a forward costs."""
        return self.config.layers * (context + answer)
