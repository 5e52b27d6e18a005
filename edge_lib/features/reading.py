"""Reads a shard's items for an encoder; one that cannot be used is left out, with the reason."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset

from edge_lib.data.image import TRANSPARENT
from edge_lib.data.skipped import Skipped
from edge_lib.features.encoder import Encoder, prepare_items
from edge_lib.features.items import Items

CANNOT_PREPARE = "cannot be prepared for the encoder"


@dataclass
class PreparedBatch:
    """Inputs of an encoder for some items, by number, and what happened to them and the others."""

    items: list[int]
    inputs: dict[str, torch.Tensor]
    skipped: dict[int, Skipped] = field(default_factory=dict)
    truncated: list[int] = field(default_factory=list)
    transparent: int = 0  # images that were put over white


@dataclass
class BatchReader(Dataset):
    """Batches of items, decoded and prepared; runs in loader processes."""

    items: Items
    encoder: Encoder
    batches: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> PreparedBatch:
        numbers = self.batches[number].tolist()
        decoded = dict(zip(numbers, self.items.load(numbers), strict=True))
        skipped = {n: item for n, item in decoded.items() if isinstance(item, Skipped)}
        usable = {n: item for n, item in decoded.items() if n not in skipped}
        inputs, errors = prepare_items(self.encoder, usable)
        for n, error in errors.items():
            skipped[n] = Skipped(CANNOT_PREPARE, str(error))
            del usable[n]
        return PreparedBatch(
            list(usable),
            inputs,
            skipped,
            [n for n, item in usable.items() if self.encoder.truncates(item)],
            sum(getattr(item, "info", {}).get(TRANSPARENT, False) for item in usable.values()),
        )
