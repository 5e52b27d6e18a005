"""What the tiny backbones share: labelled examples in memory, and how a backbone is published."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset


@dataclass
class Labelled:
    """A batch: inputs (B, ...) and, for each place in an input, labels (B, places, questions)."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def to(self, device) -> "Labelled":
        return Labelled(self.inputs.to(device), self.labels.to(device))


@dataclass
class Examples(Dataset):
    """A training set whose batches are a function of their number."""

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

    def __getitem__(self, step: int) -> Labelled:
        rows = self._rows(step)
        return Labelled(self.inputs[rows], self.labels[rows])

    def chunks(self, size: int = 256):
        """The examples in order, as batches of at most `size`."""
        pairs = zip(self.inputs.split(size), self.labels.split(size), strict=True)
        return (Labelled(*pair) for pair in pairs)


def publish(checkpoint: Path, output: Path, card: str, scores: dict[str, float]) -> Path:
    """Copy a checkpoint to where the package ships it, with a model card that holds its scores."""
    shutil.copytree(checkpoint, output, dirs_exist_ok=True)
    lines = "\n".join(f"| {name} | {score:.4f} |" for name, score in scores.items())
    (output / "README.md").write_text(card.format(scores=lines))
    return output
