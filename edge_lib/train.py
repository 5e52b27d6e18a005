"""One loop for every model, on Accelerate: precision, accumulation and processes by config.

A step is one optimizer update. Batches are a function of their number, weights and optimizer are
in the checkpoints, so a run that was killed and started again ends with the same weights as one
that was not.
"""

import math
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DeepSpeedPlugin,
    FullyShardedDataParallelPlugin,
    is_deepspeed_available,
    set_seed,
)
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Dataset

from edge_lib.checkpoint import newest_checkpoint, save_checkpoint
from edge_lib.config import TrainConfig
from edge_lib.ema import MovingAverage
from edge_lib.runs import Run

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite; the message holds the step and the rows."""


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


def fit(
    model: nn.Module,
    batches: Dataset,
    config: TrainConfig,
    run: Run,
    evaluate: Callable[[nn.Module], dict[str, float]],
    seed: int,
) -> dict[str, float]:
    """Train `model`, whose forward maps a batch to a scalar loss, and keep its best state.

    batches: `batches[i]` is the i-th batch of this process, `batches.steps_per_epoch` of them an
        epoch; `batches.ids(i)` names its rows.
    evaluate: metrics of the model; the one called "score" chooses checkpoints/best.
    Returns time, throughput and memory. Raises NonFiniteLossError.
    """
    accelerator = make_accelerator(config, run)
    total = total_steps(config, batches.steps_per_epoch)
    optimizer = make_optimizer(model, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, rate_factor(config.warmup, config.cooldown, total)
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    progress, average = Progress(), MovingAverage(model, config.ema)
    accelerator.register_for_checkpointing(schedule, progress, average)
    set_seed(seed, device_specific=True)
    resume(accelerator, run, progress)

    report = Reporter(accelerator, run, config, progress, total)
    upcoming = range(progress.step * config.accumulation, total * config.accumulation)
    # a generator of its own: starting a loader draws a number, which would put a resumed run off
    own = torch.Generator()
    loader = DataLoader(
        batches, None, sampler=upcoming, num_workers=config.num_workers, generator=own
    )
    model.train()
    tick, losses = time.perf_counter(), []
    for number, batch in zip(upcoming, loader, strict=True):
        with accelerator.accumulate(model):
            loss = model(batch.to(accelerator.device))
            losses.append(loss.detach())
            accelerator.backward(loss)
            if not accelerator.sync_gradients:
                continue
            norm = accelerator.clip_grad_norm_(model.parameters(), config.clip)
            loss = guard(torch.stack(losses).mean(), norm, number, batches, config, run)
            optimizer.step()
            schedule.step()
            average.update()
            optimizer.zero_grad()
        losses.clear()
        progress.step += 1
        progress.seconds += time.perf_counter() - tick
        progress.peak_mb = max(progress.peak_mb, peak_memory_mb())
        report.step(loss, schedule.get_last_lr()[0], norm)
        if report.due(config.eval_every):
            with average.in_place():
                keep_best(accelerator, model, evaluate, run, progress, report)
        if report.due(config.checkpoint_every):
            save_checkpoint(accelerator, run.checkpoints, progress.step, config.keep_checkpoints)
        tick = time.perf_counter()
    accelerator.end_training()
    rows = total * config.accumulation * config.batch_size
    return {
        "steps": total,
        "seconds.train": progress.seconds,
        "samples_per_second": rows / max(progress.seconds, 1e-9),
        "memory.peak_mb": progress.peak_mb,
    }


def make_accelerator(config: TrainConfig, run: Run) -> Accelerator:
    tracker = None if config.tracker == "none" else config.tracker
    if tracker and tracker not in map(str, get_available_trackers()):
        raise RuntimeError(f"train.tracker={tracker} is not installed: pip install {tracker}")
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if expected == 1 and config.sharding is None:
        # it would take one process for several: DDP costs time, and knows no spread model
        os.environ.pop("LOCAL_RANK", None)
    accelerator = Accelerator(
        # on a CPU it would otherwise leave the launched processes unconnected
        cpu=expected > 1 and not torch.cuda.is_available(),
        mixed_precision=PRECISIONS[config.precision],
        gradient_accumulation_steps=config.accumulation,
        log_with=tracker,
        project_dir=run.folder,
        step_scheduler_with_optimizer=False,
        **sharding_plugin(config, expected),
    )
    if accelerator.num_processes != expected:
        raise RuntimeError(f"{accelerator.num_processes} processes where {expected} were launched")
    if tracker:
        accelerator.init_trackers(run.folder.name)
    return accelerator


def sharding_plugin(config: TrainConfig, processes: int) -> dict:
    """What Accelerate is told of `config.sharding`."""
    if config.sharding is None:
        return {}
    if not torch.cuda.is_available():
        raise RuntimeError(f"train.sharding={config.sharding} needs GPUs; null trains without")
    if config.sharding == "fsdp2":
        # each layer is a shard; what is frozen and small stays whole
        how = {"auto_wrap_policy": "transformer_based_wrap", "ignored_modules": "streams"}
        return {"fsdp_plugin": FullyShardedDataParallelPlugin(fsdp_version=2, **how)}
    if not is_deepspeed_available():
        raise RuntimeError("train.sharding=zero2 needs DeepSpeed: pip install deepspeed")
    about = {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": config.batch_size // processes,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip,
    }
    if config.precision != "fp32":
        about[config.precision] = {"enabled": True}
    return {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=about)}


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone, not on norms, biases or logit_scale."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    steps = max(1, config.epochs * steps_per_epoch // config.accumulation)
    return min(steps, config.max_steps or steps)


def rate_factor(warmup: float, cooldown: float | None, total: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step: linear to 1, then a half cosine to 0; with a
    cooldown it stays at 1 and falls linearly over that last share (arXiv 2405.18392).
    """
    rise = max(1, round(warmup * total))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        if cooldown is None:
            return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
        return min(1.0, (total - step) / max(1, cooldown * total))

    return factor


def resume(accelerator: Accelerator, run: Run, progress: Progress) -> None:
    """Go on from the newest whole checkpoint, if there is one."""
    if newest := newest_checkpoint(run.checkpoints):
        accelerator.load_state(str(newest))
        accelerator.print(f"resumed from {newest.name}", flush=True)
    if accelerator.is_main_process:
        run.rewind(progress.step)


def guard(loss, norm, number: int, batches, config: TrainConfig, run: Run) -> float:
    """The loss as a number, or an error that names the step and its rows.

    fp16 is let off on the norm: its loss scaler overflows now and then, and skips those steps.
    """
    value = float(loss)
    if math.isfinite(value) and (config.precision == "fp16" or math.isfinite(float(norm))):
        return value
    step = number // config.accumulation + 1
    first = (step - 1) * config.accumulation
    ids = [name for i in range(first, number + 1) for name in batches.ids(i)]
    path = run.logs / f"nonfinite-step-{step}.txt"
    path.write_text("\n".join(ids) + "\n")
    raise NonFiniteLossError(
        f"step {step}: loss {value}, gradient norm {float(norm)}; rows {', '.join(ids[:8])}"
        f"{', ...' if len(ids) > 8 else ''} (all {len(ids)} in {path})"
    )


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


def keep_best(accelerator, model, evaluate, run: Run, progress: Progress, report) -> None:
    """Evaluate on every process alike (no collectives to wait in); save the best so far."""
    plain = accelerator.unwrap_model(model)
    plain.eval()
    with torch.no_grad():
        metrics = evaluate(plain)
    model.train()
    score = metrics.pop("score")
    report.write(**metrics)
    if score > progress.best:
        progress.best = score
        sharded = [module for module in plain.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.unshard()  # by all ranks together
        if accelerator.is_main_process:
            plain.save_pretrained(run.checkpoints / "best")
        for module in sharded:
            module.reshard()


def peak_memory_mb() -> float:
    """Peak memory of this process: allocated on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
