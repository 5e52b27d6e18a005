"""Fusion: one embedding and one prefix from any non-empty subset of the modalities.

    {modality: sequence (B, L_m, D)}, {modality: present (B,)} -> Fused(embedding, prefix, mask)

The embedding is for retrieval, the prefix for decoders. The values of an absent modality, NaN
included, change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_lib.config import FusionConfig
from edge_lib.config.registry import FUSIONS, load_registered
from edge_lib.nn.perceiver import PerceiverLayer


@dataclass
class Fused:
    """The output of a fusion. That of a row without any modality is finite and meaningless."""

    embedding: Tensor  # (B, D), not normalised
    prefix: Tensor  # (B, L, D)
    mask: Tensor  # (B, L) bool, False where a modality is absent
    weights: Tensor | None = None  # (B, M) gated: of each modality, they sum to 1


class Fusion(nn.Module):
    """The base of all fusions: normalised inputs, zeros for absent modalities."""

    def __init__(self, modalities: Sequence[str], dim: int):
        """dim: width D of the sequences and of the embedding."""
        super().__init__()
        self.modalities = list(modalities)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dim) for name in self.modalities})

    @classmethod
    def from_config(cls, config: FusionConfig, dim: int) -> "Fusion":
        return cls(config.modalities, dim, config.width)

    def inputs(self, sequences: dict[str, Tensor], present: dict[str, Tensor]) -> tuple:
        """-> normalised sequences [(B, L_m, D)] and their masks [(B, L_m)]."""
        parts, masks = [], []
        for name in self.modalities:
            part, exists = sequences[name], present[name][:, None]
            part = self.norms[name](part.masked_fill(~exists[..., None], 0))
            parts.append(part.masked_fill(~exists[..., None], 0))
            masks.append(exists.expand(part.shape[:2]))
        return parts, masks


class ConcatFusion(Fusion):
    """An MLP on the concatenated means of the modalities; the prefix concatenates the sequences.

    A learned vector replaces the mean of an absent modality.
    """

    def __init__(self, modalities: Sequence[str], dim: int, dim_hidden: int):
        super().__init__(modalities, dim)
        self.absent = nn.Parameter(torch.zeros(len(self.modalities), dim))
        self.mix = _mlp(len(self.modalities) * dim, dim_hidden, dim)

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

    The prefix is the latents, of one length whatever is absent; the embedding is their mean.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        dim: int,
        dim_hidden: int,
        num_latents: int,
        num_layers: int,
        num_heads: int,
    ):
        super().__init__(modalities, dim)
        self.embed = nn.ModuleDict({name: nn.Linear(dim, dim_hidden) for name in self.modalities})
        self.latents = nn.Parameter(torch.randn(num_latents, dim_hidden) * 0.02)
        layers = [PerceiverLayer(dim_hidden, num_heads) for _ in range(num_layers)]
        self.layers = nn.ModuleList(layers)
        self.project = nn.Sequential(nn.LayerNorm(dim_hidden), nn.Linear(dim_hidden, dim))

    @classmethod
    def from_config(cls, config, dim):
        sizes = config.num_latents, config.num_layers, config.num_heads
        return cls(config.modalities, dim, config.width, *sizes)

    def forward(self, sequences: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """{(B, L_m, D)}, {(B,)} -> embedding (B, D), prefix (B, num_latents, D)."""
        parts, masks = self.inputs(sequences, present)
        # a projection per modality, with its bias, lets the latents distinguish the modalities
        pairs = zip(self.modalities, parts, strict=True)
        tokens = torch.cat([self.embed[name](part) for name, part in pairs], dim=1)
        latents = self.latents.expand(len(tokens), -1, -1)
        full_mask = latents.new_ones(latents.shape[:2], dtype=torch.bool)
        mask = torch.cat([*masks, full_mask], dim=1)
        for layer in self.layers:
            latents = layer(latents, tokens, mask)
        prefix = self.project(latents)
        return Fused(prefix.mean(1), prefix, full_mask)


class GatedFusion(Fusion):
    """A weight for each modality and column; the weights of the present modalities sum to 1.

    After the gated multimodal unit (Arevalo et al. 2017, arXiv 1702.01992). A score that all
    columns of a modality share gets the gradient of all of them, so that a gate closes within few
    steps. `Fused.weights` are means over columns; the prefix concatenates the weighted sequences.
    """

    def __init__(self, modalities: Sequence[str], dim: int, dim_hidden: int):
        super().__init__(modalities, dim)
        count = len(self.modalities)
        self.gate = _mlp(count * dim, dim_hidden, count * (1 + dim))
        mixers = {name: _mlp(dim, dim_hidden, dim) for name in self.modalities}
        self.mix = nn.ModuleDict(mixers)

    def forward(self, sequences: dict[str, Tensor], present: dict[str, Tensor]) -> Fused:
        """{(B, L_m, D)}, {(B,)} -> embedding (B, D), prefix (B, sum of L_m, D), weights (B, M)."""
        parts, masks = self.inputs(sequences, present)
        exists = torch.stack([mask[:, 0] for mask in masks], dim=1)  # (B, M)
        means = torch.stack([part.mean(1) for part in parts], dim=1)  # (B, M, D)
        scores = self.gate(means.flatten(1)).unflatten(1, (len(parts), -1))
        scores = scores[..., :1] + scores[..., 1:]
        # the lowest number, not -inf: a row without any modality gets equal weights and not NaN
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~exists[..., None], lowest).softmax(dim=1)
        mixed = [self.mix[name](p) for name, p in zip(self.modalities, parts, strict=True)]
        gated = [m * w[:, None] for m, w in zip(mixed, weights.unbind(1), strict=True)]
        embedding = sum(part.mean(1) for part in gated)
        mask = torch.cat(masks, dim=1)
        prefix = torch.cat(gated, dim=1).masked_fill(~mask[..., None], 0)
        return Fused(embedding, prefix, mask, weights.mean(-1))


def build_fusion(strategy: str, config: FusionConfig, dim: int) -> Fusion:
    """The fusion of that name, for sequences of width `dim`."""
    return load_registered(FUSIONS[strategy]).from_config(config, dim)


def _mlp(dim_in: int, dim_hidden: int, dim_out: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim_in, dim_hidden), nn.GELU(), nn.Linear(dim_hidden, dim_out))
