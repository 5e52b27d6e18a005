"""Checkpoints of a training run and its best model.

A checkpoint is written under a temporary name and renamed, so every folder step-N is complete. It
holds the digest of each file: torch and safetensors read weights with a wrong bit without an error,
and Accelerate goes on without random states that it cannot read.
"""

import pickle
import re
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import load
from torch import nn

from edge_lib.config import ConfigError
from edge_lib.runs.files import file_digests, full_disk_errors, has_digest, read_json, write_json
from edge_lib.runs.tensors import share_tensors

DIGESTS = "sha256.json"


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, keep: int) -> None:
    """Save model, optimizer, scheduler and RNG states as folder/step-N; keep the newest `keep`."""
    temporary = folder / f".step-{step:08d}"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    with full_disk_errors(temporary):
        # an argument of DeepSpeed alone; elsewhere a model's state_dict leaves out what is frozen
        accelerator.save_state(str(temporary), exclude_frozen_parameters=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        share_tensors(temporary)
        write_json(temporary / DIGESTS, file_digests(temporary))
        final = folder / f"step-{step:08d}"
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def intact_checkpoint(accelerator: Accelerator, folder: Path) -> Path | None:
    """The newest checkpoint whose files are as they were saved. Newer ones are removed, as is what
    a killed process left; every process must call this.
    """
    if accelerator.is_main_process:
        for leftover in [*folder.glob(".step-*"), *folder.glob(".best.*")]:
            shutil.rmtree(leftover)
        while (newest := newest_checkpoint(folder)) and (file := _damaged_file(newest)):
            print(f"{newest / file} is damaged: {newest.name} is removed", flush=True)
            shutil.rmtree(newest)
    accelerator.wait_for_everyone()
    return newest_checkpoint(folder)


def _damaged_file(checkpoint: Path) -> str:
    """The first file that is not as it was saved, or is missing; empty if there is none."""
    if not (saved := checkpoint / DIGESTS).exists():  # an earlier version wrote it
        return ""
    try:
        digests = read_json(saved)
    except ConfigError:
        return DIGESTS
    return next((n for n, d in digests.items() if not has_digest(checkpoint / n, d)), "")


def load_checkpoint(accelerator: Accelerator, folder: Path) -> None:
    """Restore what `save_checkpoint` saved. UnpicklingError for a file with more than tensors,
    numbers and texts: a pickle may run code. Checkpoints of `train.sharding` are trusted, as torch
    and DeepSpeed unpickle other files of theirs.
    """
    for file in sorted(folder.glob("custom_checkpoint_*.pkl")):
        try:
            torch.load(file, "meta", weights_only=True)  # Accelerate loads these without a check
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(f"{file} is no checkpoint: {error}") from None
    accelerator.load_state(str(folder))
    random_states = folder / f"random_states_{accelerator.process_index}.pkl"
    if random_states.exists():  # not for each of more processes than those that saved it
        load(random_states)  # raises what Accelerate suppresses, and then goes on without them


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
