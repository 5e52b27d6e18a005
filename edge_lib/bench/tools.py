"""Measurements: time of alternating calls in one process, memory in a process of its own.

A ratio is the median of the ratios of all rounds, so that a busy machine slows both sides alike.
"""

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch

from edge_lib.training.timing import seconds


def compare(metric: str, functions: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each function, called in turn, and the ratio of each rival to `ours`."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for i in range(rounds):  # in alternating order, so that no function always follows the same one
        for name in list(functions)[:: 1 if i % 2 else -1]:
            times[name].append(seconds(functions[name]))
    return ratios(metric, times)


def ratios(metric: str, times: dict[str, list[float]]) -> dict[str, float]:
    """Median time of each function over the rounds, and the ratio of each rival to `ours`."""
    result = {f"{metric}.{name}": median(values) for name, values in times.items()}
    for name in times.keys() - {"ours"}:
        by_round = [rival / ours for rival, ours in zip(times[name], times["ours"], strict=True)]
        result[f"{metric}.{name}.ratio"] = median(by_round)
        result[f"{metric}.{name}.ratio_min"] = min(by_round)
    return result


def peak_memory(function: Callable, *args) -> float:
    """Peak MB of `function(*args)()` in a new process, above the memory after `function(*args)`.

    Measured by CUDA's allocator on a GPU, else by the kernel (VmHWM, which unlike ru_maxrss does
    not include the parent process).
    """
    return in_new_process(_growth, function, *args)


def peak_memories(function: Callable, cases: list[tuple]) -> list[float]:
    """Peak MB of each `function(*case)()`, inputs included, above the memory after a first run.

    The cases share one process, so they must be sorted by rising memory.
    """
    return in_new_process(_peaks, function, cases)


def in_new_process(function: Callable, *args):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def _peaks(function: Callable, cases: list[tuple]) -> list[float]:
    function(*cases[0])()  # libraries allocate their workspace
    on_gpu = torch.cuda.is_available()
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else status_mb("VmRSS")
    peaks = []
    for case in cases:
        function(*case)()
        peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else status_mb("VmHWM")
        peaks.append(peak - before)
    return peaks


def _growth(function: Callable, *args) -> float:
    return memory_growth(function(*args))


def memory_growth(measured: Callable) -> float:
    """Peak MB of one call above the memory before it; on a CPU only in a new process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        measured()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = status_mb("VmRSS")
    measured()
    return status_mb("VmHWM") - before


def status_mb(field: str) -> float:
    """MB, from /proc/self/status."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) / 1024
