"""From an aligner's vectors to soft tokens, which take the place of word embeddings."""

import torch
from torch import nn

from edge_lib.config.vlm import INPUT_KINDS, ProjectorConfig
from edge_lib.nn.norm import RMSNorm
from edge_lib.nn.positions import add_positions


class Projector(nn.Module):
    """An MLP, and a norm that gives soft tokens the scale of embedded words.

    mlp, tokens: Linear, GELU, Linear from one embedding to one soft token, or to several (ClipCap,
    Mokady et al. 2021, arXiv 2111.09734). sequence: the same on each vector of a sequence, after
    positions are added (LLaVA-1.5, Liu et al. 2023, arXiv 2310.03744). clip_mlp: Linear, ReLU,
    LayerNorm, Linear from one embedding, such as the 512 dims of CLIP ViT-B/32.
    """

    def __init__(self, kind: str, dim_in: int, dim: int, num_tokens: int, scale: float):
        """num_tokens: soft tokens for each vector; scale: standard deviation of word embeddings."""
        super().__init__()
        self.input_kind, self.num_tokens = INPUT_KINDS[kind], num_tokens
        first, last = nn.Linear(dim_in, dim), nn.Linear(dim, num_tokens * dim)
        middle = [nn.ReLU(), nn.LayerNorm(dim)] if kind == "clip_mlp" else [nn.GELU()]
        self.layers = nn.Sequential(first, *middle, last)
        self.norm_in = nn.LayerNorm(dim_in) if self.input_kind == "sequence" else nn.Identity()
        # much smaller soft tokens are ignored, much larger ones dominate the words
        self.norm = RMSNorm(dim)
        nn.init.constant_(self.norm.weight, scale)

    @classmethod
    def from_config(
        cls, config: ProjectorConfig, dim_in: int, dim: int, scale: float
    ) -> "Projector":
        return cls(config.kind, dim_in, dim, config.tokens, scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, dim_in) -> (B, L x num_tokens, dim)."""
        if self.input_kind == "sequence":
            x = add_positions(self.norm_in(x))
        tokens = self.layers(x).unflatten(-1, (self.num_tokens, -1))
        return self.norm(tokens.flatten(1, 2))
