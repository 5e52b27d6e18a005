"""Fusion: one embedding and one prefix from any non-empty subset of the modalities.

    {modality: sequence (B, L_m, D)}, {modality: present (B,)} -> Fused(embedding, prefix, mask)

The embedding is for retrieval, the prefix for decoders. What a modality that is absent holds,
NaN included, changes nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_lib.config import FusionConfig
from edge_lib.nn.perceiver import PerceiverLayer


@dataclass
class Fused:
    """What a fusion makes of a batch. A row without any modality is finite, and means nothing."""

    embedding: Tensor  # (B, D), not normalised
    prefix: Tensor  # (B, L, D)
    mask: Tensor  # (B, L) bool, False where a modality is absent
    weights: Tensor | None = None  # (B, M) that add to 1, in the order of the modalities: gated


class Fusion(nn.Module):
    """What all have in common: normalised inputs, with zeros for what is absent."""

    def __init__(self, config: FusionConfig, dim: int):
        super().__init__()
        self.modalities = config.modalities
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in self.modalities})

    def inputs(self, sequences: dict[str, Tensor], present: dict[str, Tensor]) -> tuple:
        """-> normalised sequences [(B, L_m, D)] and their masks [(B, L_m)]."""
        parts, masks = [], []
        for name in self.modalities:
            part, there = sequences[name], present[name][:, None]
            part = self.norms[name](part.masked_fill(~there[..., None], 0))
            parts.append(part.masked_fill(~there[..., None], 0))
            masks.append(there.expand(part.shape[:2]))
        return parts, masks


class ConcatFusion(Fusion):
    """An MLP on the modalities' means side by side; the prefix is the sequences one after another.

    A learned vector stands for a modality that is absent.
    """

    def __init__(self, config: FusionConfig, dim: int):
        super().__init__(config, dim)
        self.absent = nn.Parameter(torch.zeros(len(self.modalities), dim))
        self.mix = _mlp(len(self.modalities) * dim, config.width, dim)

    def forward(self, sequences: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """{(B, L_m, D)}, {(B,)} -> embedding (B, D), prefix (B, sum of L_m, D)."""
        parts, masks = self.inputs(sequences, present)
        means = [
            torch.where(mask[:, :1], part.mean(1), absent)
            for part, mask, absent in zip(parts, masks, self.absent, strict=True)
        ]
        embedding = self.mix(torch.cat(means, dim=-1))
        return Fused(embedding, torch.cat(parts, dim=1), torch.cat(masks, dim=1))


class CrossAttentionFusion(Fusion):
    """Learned latents attend to the sequences of all modalities (Jaegle et al. 2021, Perceiver).

    The prefix is the latents, and as long whatever is absent; the embedding is their mean.
    """

    def __init__(self, config: FusionConfig, dim: int):
        super().__init__(config, dim)
        self.embed = nn.ModuleDict({name: nn.Linear(dim, config.width) for name in self.modalities})
        self.latents = nn.Parameter(torch.randn(config.num_latents, config.width) * 0.02)
        layers = [PerceiverLayer(config.width, config.num_heads) for _ in range(config.num_layers)]
        self.layers = nn.ModuleList(layers)
        self.project = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, dim))

    def forward(self, sequences: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """{(B, L_m, D)}, {(B,)} -> embedding (B, D), prefix (B, num_latents, D)."""
        parts, masks = self.inputs(sequences, present)
        # each modality's own projection, bias included, tells the latents whose tokens these are
        pairs = zip(self.modalities, parts, strict=True)
        tokens = torch.cat([self.embed[name](part) for name, part in pairs], dim=1)
        latents = self.latents.expand(len(tokens), -1, -1)
        whole = latents.new_ones(latents.shape[:2], dtype=torch.bool)
        mask = torch.cat([*masks, whole], dim=1)
        for layer in self.layers:
            latents = layer(latents, tokens, mask)
        prefix = self.project(latents)
        return Fused(prefix.mean(1), prefix, whole)


class GatedFusion(Fusion):
    """A weight for each modality and column, which add to 1 over the modalities that are there.

    After the gated multimodal unit (Arevalo et al. 2017, arXiv 1702.01992). `Fused.weights` are the
    means over columns; the prefix is the weighted sequences one after another.
    """

    def __init__(self, config: FusionConfig, dim: int):
        super().__init__(config, dim)
        count = len(self.modalities)
        self.gate = _mlp(count * dim, config.width, count * dim)
        mixers = {name: _mlp(dim, config.width, dim) for name in self.modalities}
        self.mix = nn.ModuleDict(mixers)

    def forward(self, sequences: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """{(B, L_m, D)}, {(B,)} -> embedding (B, D), prefix (B, sum of L_m, D), weights (B, M)."""
        parts, masks = self.inputs(sequences, present)
        there = torch.stack([mask[:, 0] for mask in masks], dim=1)  # (B, M)
        means = torch.stack([part.mean(1) for part in parts], dim=1)  # (B, M, D)
        scores = self.gate(means.flatten(1)).view_as(means)
        # the lowest number, not -inf: a row without any modality gets equal weights and not NaN
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~there[..., None], lowest).softmax(dim=1)
        mixed = [self.mix[name](p) for name, p in zip(self.modalities, parts, strict=True)]
        gated = [m * w[:, None] for m, w in zip(mixed, weights.unbind(1), strict=True)]
        embedding = sum(part.mean(1) for part in gated)
        mask = torch.cat(masks, dim=1)
        prefix = torch.cat(gated, dim=1).masked_fill(~mask[..., None], 0)
        return Fused(embedding, prefix, mask, weights.mean(-1))


FUSIONS = {"concat": ConcatFusion, "cross_attention": CrossAttentionFusion, "gated": GatedFusion}


def _mlp(width_in: int, width: int, width_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width_out))
