"""Accelerate, set up by a config."""

import os

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, is_deepspeed_available

from edge_lib.config import TrainConfig
from edge_lib.runs import Run

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


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
