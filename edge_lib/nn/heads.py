"""Trained heads: pool an encoder's output, adapt it, project it into the shared space.

    EncoderOutput -> pooler -> (B, L, W) -> MLP -> projection -> sequence (B, L, D), pooled (B, D)

Decoders take the sequence as their prefix, under the head's `sequence_mask`.
"""

from torch import Tensor, nn

from edge_lib.config import ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.nn.poolers import Pooler, build_pooler


class Adapter(nn.Module):
    """A two-layer MLP on each vector of the sequence."""

    def __init__(self, dim_in: int, dim: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(dim_in),
            nn.Linear(dim_in, dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(dim, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim_in) -> (B, L, dim)."""
        return self.layers(x)


class MatryoshkaHead(nn.Module):
    """A projection whose first d columns are an embedding, for each d of `dims`.

    Kusupati et al. 2022, "Matryoshka Representation Learning" (arXiv 2205.13147).
    """

    def __init__(self, dim_in: int, dims: list[int]):
        super().__init__()
        self.dims = sorted(dims, reverse=True)
        self.project = nn.Linear(dim_in, self.dims[0], bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, L, dim_in) -> sequence (B, L, D), pooled (B, D), neither normalised.

        mask (B, L), False where a vector comes from padding.
        """
        sequence = self.project(x)
        if mask is None:
            return sequence, sequence.mean(dim=1)
        weights = mask[..., None].to(sequence.dtype)
        return sequence, (sequence * weights).sum(1) / weights.sum(1).clamp(min=1)


class ModalityHead(nn.Module):
    """Pooler, adapter and projection of one modality."""

    def __init__(self, pooler: Pooler, dim: int | None, dims: list[int], dropout: float = 0.0):
        """dim: width of the MLP, None for a projection alone; dims: Matryoshka sizes."""
        super().__init__()
        self.pooler = pooler
        if dim is None:
            self.adapter = nn.Sequential(nn.LayerNorm(pooler.dim), nn.Dropout(dropout))
        else:
            self.adapter = Adapter(pooler.dim, dim, dropout)
        self.matryoshka = MatryoshkaHead(dim or pooler.dim, dims)

    def forward(self, output: EncoderOutput) -> tuple[Tensor, Tensor]:
        """EncoderOutput -> sequence (B, L, D), pooled (B, D)."""
        return self.matryoshka(self.adapter(self.pooler(output)), self.sequence_mask(output))

    def sequence_mask(self, output: EncoderOutput) -> Tensor:
        """(B, L) bool, False where a vector of the sequence comes from padding."""
        return self.pooler.mask(output)


def build_head(
    config: ModalityConfig, dims: list[int], dim_token: int, dim_pooled: int
) -> ModalityHead:
    """The head that a config describes, for an encoder with these widths."""
    pooler = build_pooler(config, dim_token, dim_pooled)
    dim = config.width if config.adapter == "mlp" else None
    return ModalityHead(pooler, dim, dims, config.dropout)
