"""Poolers."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from edge_lib.config import ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.perceiver import PerceiverPooler
from edge_lib.nn.positions import add_positions


class PooledPooler(nn.Module):
    """The encoder's own pooled vector: needs no tokens."""

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width = pooled_width

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """EncoderOutput -> (B, 1, P)."""
        return encoded.pooled[:, None]


class MeanPooler(nn.Module):
    """The mean of the tokens."""

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width = token_width

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """EncoderOutput -> (B, 1, T)."""
        weights = encoded.mask[..., None].to(encoded.tokens.dtype)
        total = (encoded.tokens * weights).sum(1, keepdim=True)
        return total / weights.sum(1, keepdim=True).clamp(min=1)


class ClsPooler(nn.Module):
    """The first token: a class token, where the encoder has one."""

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width = token_width

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """EncoderOutput -> (B, 1, T)."""
        return encoded.tokens[:, :1]


class TokenPooler(nn.Module):
    """All tokens, each with its place: pooled only after the adapter and the projection.

    Nothing is mixed, so it is the prefix that tells a decoder most. Tokens of a square grid may be
    averaged over squares of `window` x `window` first (as Gemma 3 does, arXiv 2503.19786).
    """

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width, self.window = token_width, config.window
        self.norm = nn.LayerNorm(token_width)

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """EncoderOutput -> (B, L, T's width), L = T / window^2."""
        return add_positions(self._squares(self.norm(encoded.tokens)))

    def mask(self, encoded: EncoderOutput) -> torch.Tensor:
        """(B, L) bool, False on padding."""
        return self._squares(encoded.mask[..., None].float())[..., 0] == 1

    def _squares(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, L, D), the means of squares."""
        side = math.isqrt(tokens.shape[1])
        if self.window == 1:
            return tokens
        if side**2 != tokens.shape[1] or side % self.window:
            raise ValueError(
                f"{tokens.shape[1]} tokens are not a square grid of {self.window} x {self.window}"
            )
        grid = tokens.transpose(1, 2).unflatten(2, (side, side))
        return F.avg_pool2d(grid, self.window).flatten(2).transpose(1, 2)


class AttentionPooler(nn.Module):
    """One learned query attends to the tokens, with `num_heads` heads.

    As the query is the same for every row, keys and values need not be made: of a head's query q,
    keys K x and values V x, `q · K x = (K^T q) · x` and `sum a V x = V (sum a x)`. So tokens are
    met by two thin products instead of two square ones.
    """

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width, self.num_heads = config.width, config.num_heads
        self.norm = nn.LayerNorm(token_width)
        self.query = nn.Parameter(torch.randn(self.width))
        self.to_k = nn.Linear(token_width, self.width, bias=False)
        self.to_v = nn.Linear(token_width, self.width, bias=False)
        self.to_out = nn.Linear(self.width, self.width)

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """EncoderOutput -> (B, 1, W)."""
        x = add_positions(self.norm(encoded.tokens))  # (B, T, D)
        shape = self.num_heads, self.width // self.num_heads
        q, k, v = (w.unflatten(0, shape) for w in (self.query, self.to_k.weight, self.to_v.weight))
        reach = torch.einsum("hw,hwd->hd", q, k) / shape[1] ** 0.5
        # a row without any token sees its (zero) tokens rather than nothing, which would be NaN
        hidden = ~encoded.mask & encoded.mask.any(1, keepdim=True)
        scores = (x @ reach.t()).masked_fill(hidden[..., None], -torch.inf)
        seen = scores.softmax(dim=1).transpose(1, 2) @ x  # (B, H, D)
        return self.to_out(torch.einsum("bhd,hwd->bhw", seen, v).flatten(1))[:, None]


POOLERS = {
    "pooled": PooledPooler,
    "mean": MeanPooler,
    "cls": ClsPooler,
    "tokens": TokenPooler,
    "attention": AttentionPooler,
    "perceiver": PerceiverPooler,
}
