"""How far training is: what a checkpoint must know, and what the log shows."""

import math
import resource
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from edge_lib.config import TrainConfig
from edge_lib.runs import Run


@dataclass
class Progress:
    """What a checkpoint must know beside weights and optimizer."""

    step: int = 0
    best: float = -math.inf
    seconds: float = 0.0  # of training steps: without evaluation and checkpoints
    peak_mb: float = 0.0

    def state_dict(self) -> dict:
        return vars(self).copy()

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


@dataclass
class Reporter:
    """Tells metrics.jsonl, the trackers and the log how far training is."""

    accelerator: Accelerator
    run: Run
    config: TrainConfig
    progress: Progress
    total: int

    def due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.total

    def step(self, loss: float, lr: float, norm: torch.Tensor) -> None:
        if self.due(self.config.log_every):
            rate = self.progress.step * self.config.batch_size * self.config.accumulation
            rate /= self.progress.seconds
            self.write(
                loss=loss,
                lr=lr,
                grad_norm=float(norm),
                samples_per_second=rate,
                seconds=self.progress.seconds,
                peak_mb=self.progress.peak_mb,
            )

    def write(self, **metrics: float) -> None:
        if not metrics or not self.accelerator.is_main_process:
            return
        self.run.log(self.progress.step, **metrics)
        self.accelerator.log(metrics, step=self.progress.step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"step {self.progress.step}/{self.total}  {shown}", flush=True)


def peak_memory_mb() -> float:
    """Peak memory of this process: allocated on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
