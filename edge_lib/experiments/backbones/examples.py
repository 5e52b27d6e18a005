"""Labelled examples in memory, served as batches that are a function of the step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset


@dataclass
class LabelledBatch:
    """Inputs (B, ...) and labels (B, places, questions): one answer per place and question."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def to(self, device) -> "LabelledBatch":
        return LabelledBatch(self.inputs.to(device), self.labels.to(device))


@dataclass
class ExampleBatches(Dataset):
    """Shuffled batches of N examples; item `step` is the batch of that training step."""

    inputs: torch.Tensor  # (N, ...)
    labels: torch.Tensor  # (N, places, questions)
    batch_size: int = 64
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.inputs) // self.batch_size

    def _rows(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.inputs))
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def ids(self, step: int) -> list[str]:
        return [f"scene {row}" for row in self._rows(step)]

    def __getitem__(self, step: int) -> LabelledBatch:
        rows = self._rows(step)
        return LabelledBatch(self.inputs[rows], self.labels[rows])

    def chunks(self, size: int = 256) -> Iterator[LabelledBatch]:
        """All examples once, in order, at most `size` at a time."""
        pairs = zip(self.inputs.split(size), self.labels.split(size), strict=True)
        return (LabelledBatch(*pair) for pair in pairs)
