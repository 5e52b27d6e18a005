"""What passes from a frozen encoder, or from the store of what it said, to a trained head."""

from dataclasses import dataclass

import torch


@dataclass
class EncoderOutput:
    """What a frozen encoder says of a batch; tokens and mask are None where none were kept."""

    tokens: torch.Tensor | None  # (B, T, D)
    mask: torch.Tensor | None  # (B, T) bool, False on padding
    pooled: torch.Tensor  # (B, P)

    def to(self, device, dtype: torch.dtype | None = None) -> "EncoderOutput":
        """On a device; dtype: of tokens and pooled."""
        kinds = zip((self.tokens, self.mask, self.pooled), (dtype, None, dtype), strict=True)
        return EncoderOutput(
            *(x if x is None else x.to(device, d, non_blocking=True) for x, d in kinds)
        )


@dataclass
class MultimodalOutput:
    """What the encoders of several modalities say of the same N items."""

    parts: dict[str, EncoderOutput]

    def to(self, device, dtype: torch.dtype | None = None) -> "MultimodalOutput":
        return MultimodalOutput(
            {name: encoded.to(device, dtype) for name, encoded in self.parts.items()}
        )
