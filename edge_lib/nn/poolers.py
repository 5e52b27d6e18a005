"""Poolers: from the output of a frozen encoder to a short sequence of vectors.

Each takes an `EncoderOutput` and applies its mask: values on padding change nothing. `dim` is the
width of the output vectors, `mask(output)` marks the valid ones.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_lib.config import ModalityConfig
from edge_lib.config.registry import POOLERS, load_registered
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.positions import add_positions


class Pooler(nn.Module):
    """The base of all poolers: `num_vectors` vectors of width `dim` for each item."""

    num_vectors = 1

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    @classmethod
    def from_config(cls, config: ModalityConfig, dim_token: int, dim_pooled: int) -> "Pooler":
        """dim_token, dim_pooled: widths of the encoder's tokens and of its pooled vector."""
        return cls(dim_token)

    def mask(self, output: EncoderOutput) -> Tensor:
        """(B, L) bool, False where a vector comes from padding."""
        shape = output.pooled.shape[0], self.num_vectors
        return torch.ones(shape, dtype=torch.bool, device=output.pooled.device)


def build_pooler(config: ModalityConfig, dim_token: int, dim_pooled: int) -> Pooler:
    """The pooler that `config.pooler` names."""
    return load_registered(POOLERS[config.pooler]).from_config(config, dim_token, dim_pooled)


class PooledPooler(Pooler):
    """The encoder's own pooled vector; it needs no tokens."""

    @classmethod
    def from_config(cls, config, dim_token, dim_pooled):
        return cls(dim_pooled)

    def forward(self, output: EncoderOutput) -> Tensor:
        """EncoderOutput -> (B, 1, P)."""
        return output.pooled[:, None]


class MeanPooler(Pooler):
    """The mean of the tokens."""

    def forward(self, output: EncoderOutput) -> Tensor:
        """EncoderOutput -> (B, 1, D)."""
        weights = output.mask[..., None].to(output.tokens.dtype)
        total = (output.tokens * weights).sum(1, keepdim=True)
        return total / weights.sum(1, keepdim=True).clamp(min=1)


class ClsPooler(Pooler):
    """The first token: the class token, where the encoder has one."""

    def forward(self, output: EncoderOutput) -> Tensor:
        """EncoderOutput -> (B, 1, D)."""
        return output.tokens[:, :1]


class TokenPooler(Pooler):
    """All tokens, with their positions; they are averaged only after the projection.

    Tokens of a square grid may first be averaged over squares of `window` x `window` (as in
    Gemma 3, arXiv 2503.19786).
    """

    def __init__(self, dim: int, window: int = 1):
        super().__init__(dim)
        self.window, self.norm = window, nn.LayerNorm(dim)

    @classmethod
    def from_config(cls, config, dim_token, dim_pooled):
        return cls(dim_token, config.window)

    def forward(self, output: EncoderOutput) -> Tensor:
        """EncoderOutput -> (B, T / window^2, D)."""
        tokens = self._average_squares(self.norm(output.tokens))
        return add_positions(tokens, positions=output.positions if self.window == 1 else None)

    def mask(self, output: EncoderOutput) -> Tensor:
        return self._average_squares(output.mask[..., None].float())[..., 0] == 1

    def _average_squares(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T / window^2, D)."""
        if self.window == 1:
            return tokens
        side = math.isqrt(tokens.shape[1])
        if side**2 != tokens.shape[1] or side % self.window:
            raise ValueError(
                f"{tokens.shape[1]} tokens do not form a square grid of {self.window} x "
                f"{self.window} windows; of a model with a class token, set tokens: patch"
            )
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))
        return F.avg_pool2d(grid, self.window).flatten(2).transpose(1, 2)


class AttentionPooler(Pooler):
    """One learned query attends to the tokens, with `num_heads` heads.

    The query is the same for every row, so keys and values are never computed: for a head with
    query q, keys K x and values V x, `q · K x = (K^T q) · x` and `sum a V x = V (sum a x)`. Two
    thin products with the tokens replace two square ones.
    """

    def __init__(self, dim_in: int, dim: int, num_heads: int):
        super().__init__(dim)
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim_in)
        self.query = nn.Parameter(torch.randn(dim))
        self.to_k = nn.Linear(dim_in, dim, bias=False)
        self.to_v = nn.Linear(dim_in, dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    @classmethod
    def from_config(cls, config, dim_token, dim_pooled):
        return cls(dim_token, config.width, config.num_heads)

    def forward(self, output: EncoderOutput) -> Tensor:
        """EncoderOutput -> (B, 1, dim)."""
        x = add_positions(self.norm(output.tokens), positions=output.positions)  # (B, T, D)
        shape = self.num_heads, self.dim // self.num_heads
        q, k, v = (w.unflatten(0, shape) for w in (self.query, self.to_k.weight, self.to_v.weight))
        projected = torch.einsum("hw,hwd->hd", q, k) / shape[1] ** 0.5
        # a row without valid tokens attends to its zeros: attending to nothing would give NaN
        hidden = ~output.mask & output.mask.any(1, keepdim=True)
        scores = (x @ projected.t()).masked_fill(hidden[..., None], -torch.inf)
        averaged = scores.softmax(dim=1).transpose(1, 2) @ x  # (B, H, D)
        return self.to_out(torch.einsum("bhd,hwd->bhw", averaged, v).flatten(1))[:, None]
