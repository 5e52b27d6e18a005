"""The training loop of every model, on Accelerate: precision, accumulation, processes by config.

A step is one optimizer update. A batch depends only on its number, and checkpoints hold weights,
optimizer and RNG states, so a run that was killed and resumed ends with the same weights as one
that was not.
"""

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset

from edge_lib.config import TrainConfig
from edge_lib.runs import Run
from edge_lib.runs.parent import end_with_parent
from edge_lib.training.accelerator import make_accelerator
from edge_lib.training.checkpoints import (
    intact_checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_model,
)
from edge_lib.training.ema import MovingAverage
from edge_lib.training.optimizer import make_optimizer, rate_factor, total_steps
from edge_lib.training.progress import Progress, Reporter, peak_memory_mb, step_bar
from edge_lib.training.worker import set_interrupt_message

Evaluate = Callable[[nn.Module], dict[str, float]]


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite; the message names the step and the rows."""


def fit(
    model: nn.Module, batches: Dataset, config: TrainConfig, run: Run, evaluate: Evaluate, seed: int
) -> dict[str, float]:
    """Train `model`, whose forward maps a batch to a scalar loss, and save its best state.

    batches: `batches[i]` is this process's i-th batch, `batches.steps_per_epoch` their number in an
        epoch, and `batches.ids(i)` the ids of batch i's rows.
    evaluate: returns metrics of the model; the highest "score" selects checkpoints/best.
    Returns steps, time, throughput and memory. Raises NonFiniteLossError.
    """
    trainer = Trainer(model, batches, config, run, seed)
    trainer.train(evaluate)
    progress = trainer.progress
    rows = trainer.total * config.accumulation * config.batch_size
    return {
        "steps": trainer.total,
        "seconds.train": progress.seconds,
        "samples_per_second": rows / max(progress.seconds, 1e-9),
        "memory.peak_mb": progress.peak_mb,
    }


class Trainer:
    """Model, optimizer, schedule and counters of one run, resumed from its newest checkpoint."""

    def __init__(
        self, model: nn.Module, batches: Dataset, config: TrainConfig, run: Run, seed: int
    ):
        self.batches, self.config, self.run = batches, config, run
        self.accelerator = make_accelerator(config, run)
        self.total = total_steps(config, batches.steps_per_epoch)
        optimizer = make_optimizer(model, config)
        rate = rate_factor(config.warmup, config.cooldown, self.total)
        self.schedule = LambdaLR(optimizer, rate)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.progress, self.average = Progress(), MovingAverage(self.model, config.ema)
        self.accelerator.register_for_checkpointing(self.schedule, self.progress, self.average)
        set_seed(seed, device_specific=True)
        self.resume()
        self.report = Reporter(self.accelerator, run, config, self.progress, self.total)

    def resume(self) -> None:
        if checkpoint := intact_checkpoint(self.accelerator, self.run.checkpoints):
            load_checkpoint(self.accelerator, checkpoint)
            self.accelerator.print(f"resumed from {checkpoint.name}", flush=True)
        if self.accelerator.is_main_process:
            self.run.rewind(self.progress.step)
        self.checkpoint = self.progress.step
        self.update_interrupt_message()

    def train(self, evaluate: Evaluate) -> None:
        """Train to the last step; evaluate, log and save as often as the config says."""
        batches = self.remaining_batches()
        self.model.train()
        with step_bar(self.progress.step, self.total) as bar:
            while self.progress.step < self.total:
                bar.set_postfix(loss=self.train_step(batches), refresh=False)
                bar.update()
                if self.report.due(self.config.eval_every):
                    self.save_if_best(evaluate)
                if self.report.due(self.config.checkpoint_every):
                    self.save_checkpoint()
        self.accelerator.end_training()

    def remaining_batches(self) -> Iterator:
        count = self.config.accumulation
        numbers = range(self.progress.step * count, self.total * count)
        # A loader draws a number when it starts. Its own generator keeps that draw out of the
        # global random state, which would otherwise differ in a resumed run.
        options = {"num_workers": self.config.num_workers, "generator": torch.Generator()}
        options["worker_init_fn"] = end_with_parent
        return iter(DataLoader(self.batches, batch_size=None, sampler=numbers, **options))

    def train_step(self, batches: Iterator) -> float:
        """One update, counted and reported; returns its loss."""
        start, progress = time.perf_counter(), self.progress
        loss, norm = self.update(batches)
        progress.step += 1
        progress.seconds += time.perf_counter() - start
        progress.peak_mb = max(progress.peak_mb, peak_memory_mb())
        self.update_interrupt_message()
        self.report.step(loss, self.schedule.get_last_lr()[0], norm)
        return loss

    def update(self, batches: Iterator) -> tuple[float, Tensor]:
        """One optimizer update on `accumulation` batches: their mean loss, the gradient norm."""
        losses = []
        for batch in islice(batches, self.config.accumulation):
            with self.accelerator.accumulate(self.model):
                loss = self.model(batch.to(self.accelerator.device))
                losses.append(loss.detach())
                self.accelerator.backward(loss)
                if not self.accelerator.sync_gradients:
                    continue
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
                loss = self.check_finite(torch.stack(losses).mean(), norm)
                self.optimizer.step()
                self.schedule.step()
                self.average.update()
                self.optimizer.zero_grad()
        return loss, norm

    def check_finite(self, loss: Tensor, norm: Tensor) -> float:
        """The loss as a number, or an error that names the step and its rows.

        With fp16 an infinite norm is allowed: the loss scaler skips such steps.
        """
        value = float(loss)
        if math.isfinite(value) and (self.config.precision == "fp16" or math.isfinite(float(norm))):
            return value
        step, count = self.progress.step, self.config.accumulation
        numbers = range(step * count, (step + 1) * count)
        ids = [name for number in numbers for name in self.batches.ids(number)]
        path = self.run.logs / f"nonfinite-step-{step + 1}.txt"
        path.write_text("\n".join(ids) + "\n")
        raise NonFiniteLossError(
            f"step {step + 1}: loss {value}, gradient norm {float(norm)}; rows "
            f"{', '.join(ids[:8])}{', ...' if len(ids) > 8 else ''} (all {len(ids)} in {path})"
        )

    def save_if_best(self, evaluate: Evaluate) -> None:
        """Evaluate in every process, on the whole set, so that none waits in a collective."""
        model = self.accelerator.unwrap_model(self.model)
        with self.average.applied():
            model.eval()
            with torch.no_grad():
                metrics = evaluate(model)
            model.train()
            score = float(metrics.pop("score"))  # numpy's are no weights to `load_checkpoint`
            self.report.write(**metrics)
            if score > self.progress.best:
                self.progress.best = score
                save_model(self.accelerator, model, self.run.checkpoints / "best")

    def save_checkpoint(self) -> None:
        step, keep = self.progress.step, self.config.keep_checkpoints
        save_checkpoint(self.accelerator, self.run.checkpoints, step, keep)
        self.checkpoint = step
        self.update_interrupt_message()

    def update_interrupt_message(self) -> None:
        again = f"run the cell again to resume from step {self.checkpoint}"
        set_interrupt_message(f"stopped at step {self.progress.step}; {again}")
