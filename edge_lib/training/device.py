"""The device and the rank of this process."""

import os

import torch


def local_device() -> torch.device:
    """The GPU with this process's LOCAL_RANK, or the CPU on a machine without GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local_rank >= count:
        raise ValueError(f"launch.num_processes is more than the {count} GPUs of this machine")
    return torch.device("cuda", local_rank)


def process_rank() -> tuple[int, int]:
    """Rank and number of processes; 0 and 1 outside of `launch`."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
