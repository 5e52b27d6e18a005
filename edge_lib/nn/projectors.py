"""From an aligner's vectors to soft tokens, which a language model reads as embedded words."""

import torch
from torch import nn

from edge_lib.config.vlm import ProjectorConfig
from edge_lib.nn.positions import add_positions

# what each kind reads of a stream: the head's sequence (B, L, D), or its embedding (B, 1, D)
INPUT_KINDS = dict.fromkeys(("mlp", "tokens", "clip_mlp"), "embedding") | {"sequence": "sequence"}


class Projector(nn.Module):
    """Layers of `config.kind`, and a norm that makes soft tokens as large as embedded words.

    mlp, tokens: Linear, GELU, Linear from one embedding to one soft token, or to several (ClipCap,
    Mokady et al. 2021, arXiv 2111.09734). sequence: the same on each vector of a sequence, which
    is told its place (LLaVA-1.5, Liu et al. 2023, arXiv 2310.03744). clip_mlp: Linear, ReLU,
    LayerNorm, Linear from one embedding, such as full/align_mlp.yaml's 512 dims of CLIP ViT-B/32.
    """

    def __init__(self, config: ProjectorConfig, width_in: int, width: int, scale: float):
        super().__init__()
        self.input_kind, self.tokens = INPUT_KINDS[config.kind], config.tokens
        first, last = nn.Linear(width_in, width), nn.Linear(width, config.tokens * width)
        middle = [nn.ReLU(), nn.LayerNorm(width)] if config.kind == "clip_mlp" else [nn.GELU()]
        self.layers = nn.Sequential(first, *middle, last)
        self.norm_in = nn.LayerNorm(width_in) if self.input_kind == "sequence" else nn.Identity()
        # a quieter prefix is overheard, a louder one drowns the words
        self.norm = nn.RMSNorm(width)
        nn.init.constant_(self.norm.weight, scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, width_in) -> (B, L x tokens, width)."""
        if self.input_kind == "sequence":
            x = add_positions(self.norm_in(x))
        soft = self.layers(x).unflatten(-1, (self.tokens, -1))
        return self.norm(soft.flatten(1, 2))
