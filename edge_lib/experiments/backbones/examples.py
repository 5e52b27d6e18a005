"""Labelled examples in memory, served as batches that are a function of the step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from edge_lib.data.step_dataset import StepDataset


@dataclass
class LabelledBatch:
    """Inputs (B, ...) and labels (B, places, questions): one answer per place and question."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def to(self, device) -> "LabelledBatch":
        return LabelledBatch(self.inputs.to(device), self.labels.to(device))


class ExampleBatches(StepDataset):
    """Shuffled batches of N examples. inputs (N, ...), labels (N, places, questions)."""

    def __init__(
        self, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int = 64, seed: int = 0
    ):
        super().__init__("scenes", len(inputs), batch_size, seed)
        self.inputs, self.labels = inputs, labels

    def ids(self, step: int) -> list[str]:
        return [f"scene {row}" for row in self.units(step)]

    def __getitem__(self, step: int) -> LabelledBatch:
        rows = self.units(step)
        return LabelledBatch(self.inputs[rows], self.labels[rows])

    def chunks(self, size: int = 256) -> Iterator[LabelledBatch]:
        """All examples once, in order, at most `size` at a time."""
        pairs = zip(self.inputs.split(size), self.labels.split(size), strict=True)
        return (LabelledBatch(*pair) for pair in pairs)
