"""One loop for every model, on Accelerate: precision, accumulation and processes by config.

A step is one optimizer update. Batches are a function of their number, weights and optimizer are
in the checkpoints, so a run that was killed and started again ends with the same weights as one
that was not.
"""

import math
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader, Dataset

from edge_lib.config import TrainConfig
from edge_lib.runs import Run
from edge_lib.training.accelerator import make_accelerator
from edge_lib.training.checkpoints import newest_checkpoint, save_checkpoint
from edge_lib.training.ema import MovingAverage
from edge_lib.training.optimizer import make_optimizer, rate_factor, total_steps
from edge_lib.training.progress import Progress, Reporter, peak_memory_mb


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite; the message holds the step and the rows."""


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
