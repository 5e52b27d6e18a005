"""The device of this process."""

import os

import torch


def local_device() -> torch.device:
    """The device of this process: its own GPU, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= there:
        raise ValueError(f"launch.num_processes is more than the {there} GPUs of this machine")
    return torch.device("cuda", number)
