"""Build Accelerate's `Accelerator` from a config."""

import os

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin, is_deepspeed_available

from edge_lib.config import TrainConfig
from edge_lib.runs import Run


def make_accelerator(config: TrainConfig, run: Run) -> Accelerator:
    """The Accelerator of one training. RuntimeError for a missing package, GPU or process."""
    tracker = None if config.tracker == "none" else config.tracker
    if tracker and tracker not in map(str, get_available_trackers()):
        raise RuntimeError(f"train.tracker={tracker} is not installed: pip install {tracker}")
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1 and config.sharding is None:
        # With LOCAL_RANK set, Accelerate would use DDP: slower, and wrong for a model that a
        # device map spreads over several GPUs.
        os.environ.pop("LOCAL_RANK", None)
    accelerator = Accelerator(
        # without it, Accelerate does not connect launched processes on a CPU
        cpu=world_size > 1 and not torch.cuda.is_available(),
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=config.accumulation,
        log_with=tracker,
        project_dir=run.folder,
        step_scheduler_with_optimizer=False,
        **sharding_plugin(config, world_size),
    )
    if accelerator.num_processes != world_size:
        raise RuntimeError(
            f"Accelerate uses {accelerator.num_processes} processes, but {world_size} were launched"
        )
    if tracker:
        accelerator.init_trackers(run.folder.name)
    return accelerator


def sharding_plugin(config: TrainConfig, world_size: int) -> dict:
    """The arguments of `Accelerator` for `config.sharding`."""
    if config.sharding is None:
        return {}
    if not torch.cuda.is_available():
        raise RuntimeError(f"train.sharding={config.sharding} needs GPUs; set it to null on a CPU")
    if config.sharding == "fsdp2":
        return {
            "fsdp_plugin": FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",  # one shard per layer
                ignored_modules="prefix_sources",  # frozen and small: replicated
            )
        }
    if not is_deepspeed_available():
        raise RuntimeError("train.sharding=zero2 needs DeepSpeed: pip install deepspeed")
    deepspeed_config = {
        "zero_optimization": {"stage": 2},
        "train_micro_batch_size_per_gpu": config.batch_size // world_size,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip,
    }
    if config.precision != "fp32":
        deepspeed_config[config.precision] = {"enabled": True}
    return {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=deepspeed_config)}
