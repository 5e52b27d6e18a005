"""Outputs of frozen encoders, from the encoder itself or from a feature store."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


@dataclass
class EncoderOutput:
    """The output of one encoder for a batch; tokens and mask are None if only `pooled` is kept."""

    tokens: torch.Tensor | None  # (B, T, D)
    mask: torch.Tensor | None  # (B, T) bool, False on padding
    pooled: torch.Tensor  # (B, P)
    grid: tuple[int, int] | None = None  # rows and columns that the last tokens of an image form
    positions: torch.Tensor | None = None  # (T,) of the tokens in the sequence, if not 0, 1, ...

    def finite(self) -> torch.Tensor:
        """(B,) bool: whether an item's valid tokens and its pooled vector hold no NaN or inf."""
        finite = self.pooled.isfinite().all(1)
        if self.tokens is None:
            return finite
        return finite & (self.tokens.isfinite().all(2) | ~self.mask).all(1)

    def to(self, device, dtype: torch.dtype | None = None) -> "EncoderOutput":
        """A copy on a device. dtype: of tokens and pooled."""

        def move(x, dtype):
            return None if x is None else x.to(device, dtype, non_blocking=True)

        tokens, pooled = (move(x, dtype) for x in (self.tokens, self.pooled))
        mask, positions = (move(x, None) for x in (self.mask, self.positions))
        return EncoderOutput(tokens, mask, pooled, self.grid, positions)


@dataclass
class MultimodalOutput:
    """The outputs of several encoders for the same N items, by modality."""

    parts: dict[str, EncoderOutput]

    def to(self, device, dtype: torch.dtype | None = None) -> "MultimodalOutput":
        return MultimodalOutput({name: part.to(device, dtype) for name, part in self.parts.items()})


class Features(Protocol):
    """Where batches get encoder outputs from: a feature store, or an encoder run online."""

    valid: np.ndarray  # (items,) bool, False where an item could not be encoded

    def gather(self, items) -> EncoderOutput | MultimodalOutput:
        """The outputs of items (B,), by number."""
