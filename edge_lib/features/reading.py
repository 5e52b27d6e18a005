"""Reads items for an encoder; one that cannot be used is left out, with the reason."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from edge_lib.data.image import TRANSPARENT
from edge_lib.data.skipped import Skipped
from edge_lib.features.encoder import UNIT, Encoder, prepare_items
from edge_lib.features.items import Items
from edge_lib.runs.parent import end_with_parent

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
class _Reader(Dataset):
    """Items by their numbers, decoded and prepared; runs in loader processes."""

    items: Items
    encoder: Encoder

    def __getitem__(self, item_numbers: np.ndarray) -> PreparedBatch:
        numbers = item_numbers.tolist()
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


class BatchLoader:
    """Prepares batches of items in `num_workers` processes, which live as long as this does."""

    def __init__(self, items: Items, encoder: Encoder, num_workers: int):
        self.encoder, self._units = encoder, []
        self._loader = DataLoader(
            _Reader(items, encoder),
            batch_size=None,
            sampler=self._units,
            num_workers=num_workers,
            worker_init_fn=end_with_parent,
            persistent_workers=num_workers > 0,
        )

    def load(self, batches: Sequence[np.ndarray]) -> Iterator[PreparedBatch]:
        """Prepare batches of item numbers, by parts where the parts' inputs can be joined."""
        size = UNIT if self.encoder.fixed_length else max(map(len, batches), default=1)
        parts = [np.split(batch, range(size, len(batch), size)) for batch in batches]
        self._units[:] = chain.from_iterable(parts)
        loaded = iter(self._loader)
        for units in parts:
            yield _join([*islice(loaded, len(units))])


def _join(parts: list[PreparedBatch]) -> PreparedBatch:
    """One batch of the items of several."""
    if len(parts) == 1:
        return parts[0]
    inputs = [part.inputs for part in parts if part.inputs]
    return PreparedBatch(
        [item for part in parts for item in part.items],
        {name: torch.cat([own[name] for own in inputs]) for name in (inputs[0] if inputs else ())},
        {item: own for part in parts for item, own in part.skipped.items()},
        [item for part in parts for item in part.truncated],
        sum(part.transparent for part in parts),
    )
