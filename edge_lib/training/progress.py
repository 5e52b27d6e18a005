"""Training progress: the counters in a checkpoint, and their reports."""

import math
import resource
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from tqdm import tqdm

from edge_lib.config import TrainConfig
from edge_lib.runs import Run
from edge_lib.runs.progress import draws_widgets, progress_bar


@dataclass
class Progress:
    """Counters that a checkpoint stores in addition to weights and optimizer."""

    step: int = 0
    best: float = -math.inf
    seconds: float = 0.0  # in training steps, without evaluation and checkpoints
    peak_mb: float = 0.0

    def state_dict(self) -> dict:
        return vars(self).copy()

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


@dataclass
class Reporter:
    """Writes metrics to metrics.jsonl, to the trackers and to the log."""

    accelerator: Accelerator
    run: Run
    config: TrainConfig
    progress: Progress
    total: int

    def due(self, every: int) -> bool:
        """Whether this step is a multiple of `every`, or the last one."""
        return self.progress.step % every == 0 or self.progress.step == self.total

    def step(self, loss: float, lr: float, norm: torch.Tensor) -> None:
        """Log the step if it is due. loss: of this rank; the log has the mean over ranks, which is
        the loss of the global batch.
        """
        if self.due(self.config.log_every):
            share = torch.tensor(loss, device=self.accelerator.device)
            rows = self.progress.step * self.config.batch_size * self.config.accumulation
            self.write(
                loss=float(self.accelerator.reduce(share, "mean")),
                lr=lr,
                grad_norm=float(norm),
                samples_per_second=rows / self.progress.seconds,
                seconds=self.progress.seconds,
                peak_mb=self.progress.peak_mb,
            )

    def write(self, **metrics: float) -> None:
        if not metrics or not self.accelerator.is_main_process:
            return
        self.run.log(self.progress.step, **metrics)
        self.accelerator.log(metrics, step=self.progress.step)
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"step {self.progress.step}/{self.total}  {text}", flush=True)


def step_bar(step: int, total: int) -> tqdm:
    """A bar in an open notebook; elsewhere the lines of the `Reporter` show how far it is."""
    return progress_bar("train", total, " steps", step) if draws_widgets() else tqdm(disable=True)


def peak_memory_mb() -> float:
    """Peak memory of this process in MB: allocated on the GPU, or resident on a CPU machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
