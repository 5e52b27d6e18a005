"""A least-squares model that trains in milliseconds, importable by launched processes."""

import math
import time

import torch
from torch import nn

from edge_lib.config import TrainConfig
from edge_lib.runs import Run
from edge_lib.training.fit import fit


class Line(nn.Module):
    """y = w x, by least squares; `batch` is a tensor (B, 2) of x and y."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, 1))

    def forward(self, batch):
        return (batch[:, :1] @ self.w - batch[:, 1:]).square().mean()

    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        torch.save(self.w, folder / "w.pt")


class Points:
    """Batches of points on y = 3x; the batches with a number in `broken` hold a NaN."""

    steps_per_epoch = 6

    def __init__(self, broken=()):
        self.broken = broken

    def __getitem__(self, number):
        x = torch.randn(8, 1, generator=torch.Generator().manual_seed(number))
        return torch.cat([x, 3 * x], 1) * (math.nan if number in self.broken else 1)

    def ids(self, number):
        return [f"point-{number}-{i}" for i in range(8)]


class BlockingPoints(Points):
    """Points whose batch 5 never comes; folder/blocked exists as soon as it is requested."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def __getitem__(self, number):
        if number == 5:
            (self.folder / "blocked").touch()
            time.sleep(600)
        return super().__getitem__(number)


def train_config(**changes):
    return TrainConfig(**{"lr": 0.3, "epochs": 5, "batch_size": 8, "weight_decay": 0, **changes})


def fit_line(run, batches=None, evaluate=lambda model: {"score": 0.0}, **changes):
    """Train a Line and return its weight."""
    model = Line()
    fit(model, batches or Points(), train_config(**changes), run, evaluate, seed=0)
    return model.w.detach()


def fit_and_block(folder):
    """Train for five steps, with a checkpoint of step 3, then block."""
    (folder / "checkpoints").mkdir()
    fit_line(Run(folder), BlockingPoints(folder), checkpoint_every=3, log_every=2)


class HeldPoints(BlockingPoints):
    """Points whose batch 5 comes once there is no file folder/hold."""

    def __getitem__(self, number):
        while number == 5 and (self.folder / "hold").exists():
            (self.folder / "blocked").touch()
            time.sleep(0.05)
        return Points.__getitem__(self, number)


def fit_held(folder):
    """Train to step 30, with checkpoints, held at step 5; returns the weight."""
    return float(fit_line(Run(folder), HeldPoints(folder), checkpoint_every=3, log_every=1))
