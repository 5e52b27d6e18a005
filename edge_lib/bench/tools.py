"""How a benchmark measures: times in turn within one process, memory in a process of its own.

A ratio is the median of the rounds' ratios, so that a busy machine slows both sides alike.
"""

import multiprocessing
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch

from edge_lib.training.timing import seconds


def compare(what: str, functions: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Time the functions in turn; `ours` is one of them, the others are its rivals."""
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    for i in range(rounds):  # forth and back, so that nobody always runs after the same neighbour
        for name in list(functions)[:: 1 if i % 2 else -1]:
            times[name].append(seconds(functions[name]))
    result = {f"{what}.{name}": median(found) for name, found in times.items()}
    for name in functions.keys() - {"ours"}:
        ratios = [t / o for t, o in zip(times[name], times["ours"], strict=True)]
        result[f"{what}.{name}.ratio"] = median(ratios)
        result[f"{what}.{name}.ratio_min"] = min(ratios)
    return result


def peak_memory(function: Callable, *args) -> float:
    """MB by which `function(*args)`, run alone in a new process, grows at its peak.

    It must return a function: what it does up to there is not counted. On a GPU the allocator
    counts; on a CPU the kernel does (VmHWM, which unlike ru_maxrss does not inherit the parent's).
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(_growth, function, *args).result()


def peak_memories(function: Callable, cases: list[tuple]) -> list[float]:
    """MB at the peak of each `function(*case)()`, inputs included, over what a process holds after
    the first of them has run once. For cases that need more and more: they share the process.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as pool:
        return pool.submit(_peaks, function, cases).result()


def _peaks(function: Callable, cases: list[tuple]) -> list[float]:
    function(*cases[0])()  # libraries take their workspace
    on_gpu = torch.cuda.is_available()
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else _status("VmRSS")
    peaks = []
    for case in cases:
        function(*case)()
        peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _status("VmHWM")
        peaks.append(peak - before)
    return peaks


def _growth(function: Callable, *args) -> float:
    work = function(*args)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) / 1024
