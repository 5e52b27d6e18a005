"""The Perceiver resampler."""

import torch
from torch import nn

from edge_lib.config import ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.positions import add_positions


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

    def forward(self, encoded: EncoderOutput) -> torch.Tensor:
        """EncoderOutput -> (B, num_latents, W)."""
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
