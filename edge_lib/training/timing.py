"""Wall time that includes the work queued on the GPU."""

from collections.abc import Callable
from time import perf_counter

import torch


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(function: Callable) -> float:
    """Wall time of one call, in seconds, until the GPU has finished its work."""
    synchronize()
    start = perf_counter()
    function()
    synchronize()
    return perf_counter() - start
