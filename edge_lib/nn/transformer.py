"""Trained transformer layers over frozen tokens."""

import torch
from torch import Tensor, nn

from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.decoders.blocks import Stack
from edge_lib.nn.poolers import Pooler
from edge_lib.nn.positions import add_positions


class TransformerPooler(Pooler):
    """All tokens, after layers in which each attends to all others: a vector for each token.

    A frozen text encoder was trained for its sentence vector, and its tokens need not tell which
    words belong together; these layers can.
    """

    def __init__(self, dim_in: int, dim: int, num_layers: int, num_heads: int):
        super().__init__(dim)
        self.embed = nn.Sequential(nn.LayerNorm(dim_in), nn.Linear(dim_in, dim))
        self.stack = Stack(dim, num_layers, num_heads, norm="pre")

    @classmethod
    def from_config(cls, config, dim_token, dim_pooled):
        return cls(dim_token, config.width, config.num_layers, config.num_heads)

    def forward(self, output: EncoderOutput) -> Tensor:
        """EncoderOutput -> (B, T, dim)."""
        tokens = add_positions(self.embed(output.tokens), positions=output.positions)
        # a row without valid tokens attends to all: attending to nothing would give NaN
        mask = output.mask | ~output.mask.any(1, keepdim=True)
        numbers = torch.arange(tokens.shape[1], device=tokens.device).expand(mask.shape)
        tokens, _ = self.stack(tokens, numbers, mask[:, None].expand(-1, mask.shape[1], -1))
        return tokens.masked_fill(~output.mask[..., None], 0)

    def mask(self, output: EncoderOutput) -> Tensor:
        return output.mask
