"""Batches as a function of the step: nothing to save, so a resumed run sees the same rows.

`batches[step]` draws its rows, captions and dropped captions from (seed, step) alone, for all
processes together, and then keeps this process's part. So one process and eight see the same
global batches.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from edge_lib.config import MODALITIES, ConfigError, ExperimentConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table


class Features(Protocol):
    """What batches are gathered from: a feature store, or an encoder run online."""

    valid: np.ndarray  # (items,) False where an item could not be encoded

    def gather(self, items) -> EncoderOutput: ...


@dataclass
class Batch:
    """Rows of all modalities; where `present` is False the features mean nothing."""

    step: int
    rows: np.ndarray  # (B,) row numbers in the table
    features: dict[str, EncoderOutput]
    present: dict[str, torch.Tensor]  # (B,) bool each

    def to(self, device) -> "Batch":
        features = {name: value.to(device) for name, value in self.features.items()}
        present = {name: value.to(device) for name, value in self.present.items()}
        return Batch(self.step, self.rows, features, present)


class AlignmentBatches(Dataset):
    """Shuffled batches of the rows that have at least two modalities; the last short one is left
    out of each epoch."""

    def __init__(
        self,
        table: Table,
        features: dict[str, Features],
        config: ExperimentConfig,
        rank: int = 0,
        world_size: int = 1,
    ):
        if config.train.batch_size % world_size:
            raise ConfigError(
                f"train.batch_size={config.train.batch_size} does not divide among "
                f"{world_size} processes"
            )
        self.table, self.features, self.seed = table, features, config.seed
        self.batch_size, self.text_dropout = config.train.batch_size, config.train.text_dropout
        self.rank, self.world_size = rank, world_size
        whole = {name: usable_items(table, name, f.valid) for name, f in features.items()}
        self.items = {name: self._lose(name, items, config) for name, items in whole.items()}
        # a group stays together even if some of its rows are made to lack too much to take part
        kept = whole if config.data.hard_negatives else self.items
        count = sum(has_item(items) for items in kept.values())
        self.blocks = self._blocks(np.flatnonzero(count >= 2), config.data.hard_negatives)
        self.steps_per_epoch = self.blocks.size // self.batch_size
        if not self.steps_per_epoch:
            raise ConfigError(
                f"{table.name}: {self.blocks.size} usable rows do not fill one batch of "
                f"{self.batch_size}"
            )

    def _lose(self, modality: str, items: list, config: ExperimentConfig) -> list[np.ndarray]:
        """Each row's items, none for the rows that are made to lack this modality."""
        rng = np.random.default_rng([config.seed, MODALITIES.index(modality), 2])
        lost = rng.random(len(items)) < config.data.missing.get(modality, 0)
        return [row[:0] if gone else row for row, gone in zip(items, lost, strict=True)]

    def _blocks(self, rows: np.ndarray, hard_negatives: bool) -> np.ndarray:
        """(N, 1) single rows, or (N, G) whole groups, to be shuffled as they are."""
        if not hard_negatives or len(rows) < self.batch_size:
            return rows[:, None]
        groups, sizes = np.unique(self.table.groups[rows], return_counts=True)
        size = int(sizes.max())
        if size == 1:
            raise ConfigError(f"data.hard_negatives: {self.table.name} has no groups of rows")
        if self.batch_size % size:
            raise ConfigError(
                f"data.hard_negatives: train.batch_size={self.batch_size} does not hold whole "
                f"groups of {size}"
            )
        whole = rows[np.isin(self.table.groups[rows], groups[sizes == size])]
        order = np.argsort(self.table.groups[whole], kind="stable")
        return whole[order].reshape(-1, size)

    def global_rows(self, step: int) -> np.ndarray:
        """(batch_size,) the rows of a step over all processes."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.blocks))
        rows = self.blocks[order].ravel()
        return rows[position * self.batch_size : (position + 1) * self.batch_size]

    def ids(self, step: int) -> list[str]:
        """The ids of a step's rows, for error messages."""
        return [self.table.ids[row] for row in self.global_rows(step)]

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step, 1])
        rows = self.global_rows(step)
        share = self.batch_size // self.world_size
        mine = slice(self.rank * share, (self.rank + 1) * share)
        encoded, present = {}, {}
        for name, features in self.features.items():
            items = pick(self.items[name], rows, rng)
            if name == "text":
                items[rng.random(len(items)) < self.text_dropout] = -1
            items = items[mine]
            # a missing item still needs some features: those of any item, which nobody looks at
            wanted = np.where(items < 0, np.argmax(features.valid), items)
            encoded[name] = features.gather(wanted)
            usable = (items >= 0) & features.valid[wanted]
            present[name] = torch.from_numpy(usable)
        return Batch(step, rows[mine], encoded, present)


def usable_items(table: Table, modality: str, valid: np.ndarray) -> list[np.ndarray]:
    """For each row, the numbers of its items that could be encoded."""
    owners = table.item_rows(modality)
    items = np.flatnonzero(valid)
    starts = np.searchsorted(owners[items], np.arange(1, len(table)))
    return np.split(items, starts)


def has_item(items: list[np.ndarray]) -> np.ndarray:
    """(N,) bool: which rows have at least one item."""
    return np.array([len(choices) > 0 for choices in items])


def pick(items: list[np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B,) one of each row's items at random; -1 where a row has none."""
    draws = rng.random(len(rows))
    chosen = zip(rows, draws, strict=True)
    return np.array([items[r][int(d * len(items[r]))] if len(items[r]) else -1 for r, d in chosen])
