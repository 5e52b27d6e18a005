"""Trained heads: pool an encoder's tokens, adapt them, project them into the shared space.

    Encoded -> pooler -> (B, L, W) -> MLP -> MatryoshkaHead -> sequence (B, L, D), pooled (B, D)

Every pooler takes `Encoded` and honours its mask: what stands on padding changes nothing. Decoders
take the sequence as their prefix, under the head's `sequence_mask`.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from edge_lib.config import ModalityConfig
from edge_lib.encoded import Encoded


class PooledPooler(nn.Module):
    """The encoder's own pooled vector: needs no tokens."""

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width = pooled_width

    def forward(self, encoded: Encoded) -> torch.Tensor:
        """Encoded -> (B, 1, P)."""
        return encoded.pooled[:, None]


class MeanPooler(nn.Module):
    """The mean of the tokens."""

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width = token_width

    def forward(self, encoded: Encoded) -> torch.Tensor:
        """Encoded -> (B, 1, T)."""
        weights = encoded.mask[..., None].to(encoded.tokens.dtype)
        total = (encoded.tokens * weights).sum(1, keepdim=True)
        return total / weights.sum(1, keepdim=True).clamp(min=1)


class ClsPooler(nn.Module):
    """The first token: a class token, where the encoder has one."""

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width = token_width

    def forward(self, encoded: Encoded) -> torch.Tensor:
        """Encoded -> (B, 1, T)."""
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

    def forward(self, encoded: Encoded) -> torch.Tensor:
        """Encoded -> (B, L, T's width), L = T / window^2."""
        return add_positions(self._squares(self.norm(encoded.tokens)))

    def mask(self, encoded: Encoded) -> torch.Tensor:
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


class PerceiverPooler(nn.Module):
    """Perceiver resampler: learned latents cross-attend to [tokens, latents], layer by layer.

    After Flamingo (Alayrac et al. 2022, fig. 5). Costs O(latents x tokens).
    """

    def __init__(self, config: ModalityConfig, token_width: int, pooled_width: int):
        super().__init__()
        self.width = config.width
        self.embed = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, self.width))
        self.num_latents = config.num_latents
        self.latents = nn.Parameter(torch.randn(config.num_latents, self.width) * 0.02)
        layers = [PerceiverLayer(self.width, config.num_heads) for _ in range(config.num_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(self.width)

    def forward(self, encoded: Encoded) -> torch.Tensor:
        """Encoded -> (B, num_latents, W)."""
        tokens = add_positions(self.embed(encoded.tokens))
        latents = self.latents.expand(len(tokens), -1, -1)
        # latents are always attended to, so a row without any token gives no NaN
        mask = torch.cat([encoded.mask, encoded.mask.new_ones(latents.shape[:2])], dim=1)
        for layer in self.layers:
            latents = layer(latents, tokens, mask)
        return self.norm(latents)


class PerceiverLayer(nn.Module):
    """Cross-attention of the latents to [tokens, latents], then an MLP; pre-norm, residual."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_latents, self.norm_tokens = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(
        self, latents: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """latents (B, L, W), tokens (B, T, W), mask (B, T + L) True = may be seen -> (B, L, W)."""
        queries = self.norm_latents(latents)
        context = torch.cat([self.norm_tokens(tokens), queries], dim=1)
        q, k, v = self.to_q(queries), *self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        seen = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None, :]
        )  # (B, heads, L, W / heads)
        latents = latents + self.to_out(seen.transpose(1, 2).flatten(2))
        return latents + self.mlp(latents)


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

    def forward(self, encoded: Encoded) -> torch.Tensor:
        """Encoded -> (B, 1, W)."""
        x = add_positions(self.norm(encoded.tokens))  # (B, T, D)
        shape = self.num_heads, self.width // self.num_heads
        q, k, v = (w.unflatten(0, shape) for w in (self.query, self.to_k.weight, self.to_v.weight))
        reach = torch.einsum("hw,hwd->hd", q, k) / shape[1] ** 0.5
        # a row without any token sees its (zero) tokens rather than nothing, which would be NaN
        hidden = ~encoded.mask & encoded.mask.any(1, keepdim=True)
        scores = (x @ reach.t()).masked_fill(hidden[..., None], -torch.inf)
        seen = scores.softmax(dim=1).transpose(1, 2) @ x  # (B, H, D)
        return self.to_out(torch.einsum("bhd,hwd->bhw", seen, v).flatten(1))[:, None]


def add_positions(tokens: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """(B, T, W) plus sinusoids of the place in the sequence (Vaswani et al. 2017, section 3.5).

    Attention does not see order, and a convolutional encoder's tokens do not say where they are.
    """
    count, width = tokens.shape[1:]
    kind = {"device": tokens.device, "dtype": torch.promote_types(tokens.dtype, torch.float32)}
    places = torch.arange(count, **kind)[:, None]
    rates = 10000 ** (-torch.arange(0, width, 2, **kind) / width)
    waves = torch.stack([(places * rates).sin(), (places * rates).cos()], dim=-1).flatten(1)
    return tokens + scale * waves[:, :width].to(tokens.dtype)


POOLERS = {
    "pooled": PooledPooler,
    "mean": MeanPooler,
    "cls": ClsPooler,
    "tokens": TokenPooler,
    "attention": AttentionPooler,
    "perceiver": PerceiverPooler,
}


class Adapter(nn.Module):
    """A two-layer MLP on each vector of the sequence."""

    def __init__(self, width_in: int, width: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width_in),
            nn.Linear(width_in, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, width_in) -> (B, L, width)."""
        return self.layers(x)


class MatryoshkaHead(nn.Module):
    """Project into the shared space, whose first d columns are an embedding for each d of `dims`.

    Kusupati et al. 2022, "Matryoshka Representation Learning".
    """

    def __init__(self, width: int, dims: list[int]):
        super().__init__()
        self.dims = sorted(dims, reverse=True)
        self.project = nn.Linear(width, self.dims[0], bias=False)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L, width) -> sequence (B, L, D), pooled (B, D), neither normalised.

        mask (B, L), False where the sequence stands on padding.
        """
        sequence = self.project(x)
        if mask is None:
            return sequence, sequence.mean(dim=1)
        weights = mask[..., None].to(sequence.dtype)
        return sequence, (sequence * weights).sum(1) / weights.sum(1).clamp(min=1)


class ModalityHead(nn.Module):
    """All that is trained for one modality."""

    def __init__(
        self, config: ModalityConfig, dims: list[int], token_width: int, pooled_width: int
    ):
        super().__init__()
        self.pooler = POOLERS[config.pooler](config, token_width, pooled_width)
        self.adapter = Adapter(self.pooler.width, config.width, config.dropout)
        self.matryoshka = MatryoshkaHead(config.width, dims)

    def forward(self, encoded: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoded -> sequence (B, L, D), pooled (B, D)."""
        return self.matryoshka(self.adapter(self.pooler(encoded)), self.sequence_mask(encoded))

    def sequence_mask(self, encoded: Encoded) -> torch.Tensor:
        """(B, L) bool, False where a vector of the sequence stands on padding."""
        if isinstance(self.pooler, TokenPooler):
            return self.pooler.mask(encoded)
        length = getattr(self.pooler, "num_latents", 1)
        return torch.ones(
            len(encoded.pooled), length, dtype=torch.bool, device=encoded.pooled.device
        )
