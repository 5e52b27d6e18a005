"""Checkpoints of a training run and its best model.

A checkpoint is written under a temporary name and renamed, so every folder step-N is complete.
"""

import pickle
import re
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from edge_lib.runs.tensors import share_tensors


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, keep: int) -> None:
    """Save model, optimizer, scheduler and RNG states as folder/step-N; keep the newest `keep`."""
    temporary = folder / f".step-{step:08d}"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    # an argument of DeepSpeed alone; elsewhere a model's state_dict leaves out what is frozen
    accelerator.save_state(str(temporary), exclude_frozen_parameters=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        share_tensors(temporary)
        final = folder / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, folder: Path) -> None:
    """Restore what `save_checkpoint` saved. UnpicklingError for a file with more than tensors,
    numbers and texts: a pickle may run code.
    """
    for file in sorted(folder.glob("custom_checkpoint_*.pkl")):
        try:
            torch.load(file, "meta", weights_only=True)  # Accelerate loads these without a check
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(f"{file} is no checkpoint: {error}") from None
    accelerator.load_state(str(folder))


def newest_checkpoint(folder: Path) -> Path | None:
    return next(reversed(_checkpoints(folder)), None)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def save_model(accelerator: Accelerator, model: nn.Module, folder: Path) -> None:
    """Save an unwrapped model by its `save_pretrained`; every process must call this."""
    sharded = [module for module in model.modules() if hasattr(module, "unshard")]
    for module in sharded:
        module.unshard()
    if accelerator.is_main_process:
        model.save_pretrained(folder)
    for module in sharded:
        module.reshard()
