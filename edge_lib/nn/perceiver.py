"""The Perceiver resampler of Flamingo (Alayrac et al. 2022, fig. 5)."""

import torch
from torch import Tensor, nn

from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.poolers import Pooler
from edge_lib.nn.positions import add_positions


class PerceiverPooler(Pooler):
    """Learned latents cross-attend to [tokens, latents], layer by layer: O(latents x tokens)."""

    def __init__(self, dim_in: int, dim: int, num_latents: int, num_layers: int, num_heads: int):
        super().__init__(dim)
        self.embed = nn.Sequential(nn.LayerNorm(dim_in), nn.Linear(dim_in, dim))
        self.num_vectors = num_latents
        self.latents = nn.Parameter(torch.randn(num_latents, dim) * 0.02)
        self.layers = nn.ModuleList([PerceiverLayer(dim, num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(dim)

    @classmethod
    def from_config(cls, config, dim_token, dim_pooled):
        sizes = config.num_latents, config.num_layers, config.num_heads
        return cls(dim_token, config.width, *sizes)

    def forward(self, output: EncoderOutput) -> Tensor:
        """EncoderOutput -> (B, num_latents, dim)."""
        tokens = add_positions(self.embed(output.tokens), positions=output.positions)
        latents = self.latents.expand(tokens.shape[0], -1, -1)
        # latents are never masked, so a row without valid tokens gives no NaN
        mask = torch.cat([output.mask, output.mask.new_ones(latents.shape[:2])], dim=1)
        for layer in self.layers:
            latents = layer(latents, tokens, mask)
        return self.norm(latents)


class PerceiverLayer(nn.Module):
    """Cross-attention of the latents to [tokens, latents], then an MLP; pre-norm, residual."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm_latents, self.norm_tokens = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        )

    def forward(self, latents: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """latents (B, L, W), tokens (B, T, W), mask (B, T + L), True = visible -> (B, L, W)."""
        queries = self.norm_latents(latents)
        context = torch.cat([self.norm_tokens(tokens), queries], dim=1)
        q, k, v = self.to_q(queries), *self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None, None, :]
        )  # (B, heads, L, W / heads)
        latents = latents + self.to_out(attended.transpose(1, 2).flatten(2))
        return latents + self.mlp(latents)
