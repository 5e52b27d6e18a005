"""Which GPUs of this machine each worker of a local sweep sees."""

import os

from edge_lib.config import ConfigError


def worker_devices(workers: int, gpus: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker: GPUs of its own, while there are enough of them.

    ConfigError if a worker needs more than there are. Without GPUs all workers use the CPU.
    """
    visible = _visible_gpus() if gpus else []
    if not visible:
        return [""] * workers
    if gpus > len(visible):
        raise ConfigError(f"sweep.gpus={gpus}, but this machine has {len(visible)} GPUs")
    groups = [visible[i : i + gpus] for i in range(0, len(visible) - gpus + 1, gpus)]
    return [",".join(groups[worker % len(groups)]) for worker in range(workers)]


def _visible_gpus() -> list[str]:
    """Numbers or UUIDs of the GPUs that this process may use."""
    if (names := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in names.split(",") if name]
    import torch  # takes seconds

    return [str(number) for number in range(torch.cuda.device_count())]
