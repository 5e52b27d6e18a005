"""Measurements: time of alternating calls in one process, memory in a process of its own.

A ratio is the median of the ratios of all rounds, so that a busy machine slows both sides alike.
"""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

import psutil
import torch

from edge_lib.runs.parent import end_with, spawned_end_with_this
from edge_lib.training.timing import seconds

THREADS = 2  # of torch
GRACE = 20  # seconds that a process gets to end its own processes and to remove its files


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


def measure_apart(
    module: str, function: str, *args, timeout: float, **kwargs
) -> dict[str, float | str]:
    """The numbers that a function of this package returns in a process of its own, and the seconds
    it took; or its error, such as that it took longer than `timeout` seconds.
    """
    start = perf_counter()
    try:
        numbers = in_new_process(_run, module, function, args, kwargs, timeout=timeout)
    except (Exception, SystemExit) as error:  # no memory, no package: others still count
        numbers = {"error": describe_error(error)}
    return numbers | {"seconds.total": perf_counter() - start}


def describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _run(module: str, function: str, args: tuple, kwargs: dict) -> dict[str, float | str]:
    """Imports the module only now, so that a missing package fails one benchmark."""
    return getattr(import_module(f"edge_lib.bench.{module}"), function)(*args, **kwargs)


def in_new_process(function: Callable, *args, timeout: float | None = None):
    """What `function(*args)` returns or raises in a new process; TimeoutError after so many
    seconds. The process and those that it started have then ended; they also end with this one.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn, initializer=_prepare) as pool:
        with spawned_end_with_this(end_with):
            started = pool.submit(os.getpid)
        process = psutil.Process(started.result())
        future = pool.submit(function, *args)
        try:
            if wait([future], timeout).not_done:
                raise TimeoutError(f"not finished after {timeout:g} s")
            return future.result()
        finally:  # also if this process is interrupted
            with suppress(psutil.NoSuchProcess):
                _end(process, pool, future)


def _prepare() -> None:
    signal.signal(signal.SIGINT, _interrupt)
    limit_threads()


def limit_threads() -> None:
    """Let torch use the threads that both sides of a benchmark have on a CPU."""
    torch.set_num_threads(THREADS)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def _end(process: psutil.Process, pool: ProcessPoolExecutor, future: Future) -> None:
    """Interrupt a process whose function has not ended, so that it cleans up; kill it where it has
    not ended after GRACE seconds, and in any case the processes that it started.
    """
    own = process.children(recursive=True)
    if not future.done():
        process.send_signal(signal.SIGINT)
    pool.shutdown(wait=False)  # the process ends when its function and threads have ended
    deadline = perf_counter() + GRACE
    while _runs(process) and perf_counter() < deadline:
        sleep(0.02)
    with suppress(psutil.NoSuchProcess):
        own += [*process.children(recursive=True), process]
    for each in own:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _runs(process: psutil.Process) -> bool:
    """Whether a process runs; asked without waitpid, whose answer multiprocessing needs."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


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
