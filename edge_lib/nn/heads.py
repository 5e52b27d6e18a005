"""Trained heads: pool an encoder's tokens, adapt them, project them into the shared space.

    EncoderOutput -> pooler -> (B, L, W) -> MLP -> MatryoshkaHead -> sequence (B, L, D), pooled (B, D)

Every pooler takes `EncoderOutput` and honours its mask: what stands on padding changes nothing. Decoders
take the sequence as their prefix, under the head's `sequence_mask`.
"""

import torch
from torch import nn

from edge_lib.config import ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.poolers import POOLERS, TokenPooler


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

    def forward(self, encoded: EncoderOutput) -> tuple[torch.Tensor, torch.Tensor]:
        """EncoderOutput -> sequence (B, L, D), pooled (B, D)."""
        return self.matryoshka(self.adapter(self.pooler(encoded)), self.sequence_mask(encoded))

    def sequence_mask(self, encoded: EncoderOutput) -> torch.Tensor:
        """(B, L) bool, False where a vector of the sequence stands on padding."""
        if isinstance(self.pooler, TokenPooler):
            return self.pooler.mask(encoded)
        length = getattr(self.pooler, "num_latents", 1)
        return torch.ones(
            len(encoded.pooled), length, dtype=torch.bool, device=encoded.pooled.device
        )
