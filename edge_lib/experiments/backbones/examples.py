"""What the tiny backbones share: labelled examples in memory, how one is trained and published."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import Dataset

from edge_lib.config import SpeechBackboneConfig, VisionBackboneConfig
from edge_lib.runs import Run
from edge_lib.training.fit import fit


@dataclass
class LabelledBatch:
    """A batch: inputs (B, ...) and, for each place in an input, labels (B, places, questions)."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def to(self, device) -> "LabelledBatch":
        return LabelledBatch(self.inputs.to(device), self.labels.to(device))


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

    def __getitem__(self, step: int) -> LabelledBatch:
        rows = self._rows(step)
        return LabelledBatch(self.inputs[rows], self.labels[rows])

    def chunks(self, size: int = 256):
        """The examples in order, as batches of at most `size`."""
        pairs = zip(self.inputs.split(size), self.labels.split(size), strict=True)
        return (LabelledBatch(*pair) for pair in pairs)


def train_reader(
    new: Callable[[], nn.Module],
    make: Callable[..., Examples],
    config: VisionBackboneConfig | SpeechBackboneConfig,
    evaluate: Callable[[nn.Module, Examples], dict[str, float]],
    seed: int,
    run_folder: Path,
) -> dict[str, float]:
    """Train a reader on what `make` makes of the train split; `evaluate` judges it on val's."""
    if int(os.environ["WORLD_SIZE"]) > 1:
        raise ValueError("the tiny backbones train on one process; set launch.num_processes=1")
    data = config.data
    train = make("train", data.train_size, data.max_objects, seed, config.train.batch_size)
    val = make("val", data.val_size, data.max_objects, seed)
    set_seed(seed)
    return fit(new(), train, config.train, Run(run_folder), partial(evaluate, data=val), seed)


def publish(checkpoint: Path, output: Path, card: str, scores: dict[str, float]) -> Path:
    """Copy a checkpoint to where the package ships it, with a model card that holds its scores."""
    shutil.copytree(checkpoint, output, dirs_exist_ok=True)
    lines = "\n".join(f"| {name} | {score:.4f} |" for name, score in scores.items())
    (output / "README.md").write_text(card.format(scores=lines))
    return output
