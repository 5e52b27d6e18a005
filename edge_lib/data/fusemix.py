"""FuseMix (Vouitsis et al. 2023, arXiv 2312.10144): mixtures of two rows as training pairs.

If a caption belongs to an image, a mixture of two captions belongs to the same mixture of their
images: stored features are mixed, with one weight for all modalities.
"""

from dataclasses import dataclass

import numpy as np
import torch

from edge_lib.data.encoder_output import EncoderOutput

ODD = 6364136223846793005  # products with an odd number are different in 64 bits


@dataclass
class Items:
    """The items of a batch in one modality, as in `alignment_batches.Batch`."""

    features: EncoderOutput
    present: torch.Tensor  # (B,) bool
    labels: torch.Tensor  # (B,) int64

    def mix(self, other: "Items", weight: float) -> "Items":
        """weight * these + (1 - weight) * the others; equal where both are equal."""
        features = mix_outputs(self.features, other.features, weight)
        labels = self.labels * ODD + other.labels
        return Items(features, self.present & other.present, labels)


def mix_outputs(a: EncoderOutput, b: EncoderOutput, weight: float) -> EncoderOutput:
    """Pooled vectors, and tokens at the same place, which images of one encoder have; tokens of
    other lengths are left out.
    """
    pooled = torch.lerp(b.pooled, a.pooled, weight)
    if a.tokens is None or a.tokens.shape != b.tokens.shape:
        return EncoderOutput(None, None, pooled)
    tokens = torch.lerp(b.tokens, a.tokens, weight)
    return EncoderOutput(tokens, a.mask & b.mask, pooled, a.grid, a.positions)


def draw_partners(present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B,) for each row another one with the same modalities, each once. present (M, B) bool."""
    pattern = 2 ** np.arange(len(present)) @ present
    first, second = (np.lexsort((rng.random(len(pattern)), pattern)) for _ in range(2))
    partners = np.empty_like(first)
    partners[first] = second
    return partners
