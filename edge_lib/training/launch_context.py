"""Context managers around a launch: environment, signals, log lines, bars, leftover processes."""

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextvars import copy_context
from functools import cache, partial
from multiprocessing.context import ForkProcess, SpawnProcess
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException

from edge_lib.runs.progress import in_open_notebook, progress_bar
from edge_lib.runs.relay import draw_bars
from edge_lib.runs.threads import background_thread

log = logging.getLogger(__name__)


@contextlib.contextmanager
def child_environment(num_processes: int) -> Iterator[None]:
    """Set the OpenMP variables and the import path that children inherit; restore them after."""
    names = "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "TORCHELASTIC_SIGNALS_TO_HANDLE"  # elastic sets it
    before, paths = {n: os.environ[n] for n in names if n in os.environ}, sys.path[:]
    affinity = getattr(os, "sched_getaffinity", None)  # the cores a container may use; Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    if cores < num_processes:
        _warn_of_few_cores(cores, num_processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_processes)))
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # A spawned process takes "" for the directory Python started in, not the current one.
    sys.path[:] = [path or os.getcwd() for path in paths]
    try:
        yield
    finally:
        sys.path[:] = paths
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@cache
def _warn_of_few_cores(cores: int, num_processes: int) -> None:
    """Once, however many launches follow."""
    log.warning(
        "CPU cores of %s: %s for %s processes; under Slurm, ask for more with --cpus-per-task",
        *(socket.gethostname(), cores, num_processes),
    )


@contextlib.contextmanager
def sigterm_restored() -> Iterator[None]:
    """Restore the SIGTERM handler that elastic replaces, and pass on a SIGTERM it caught."""
    if threading.current_thread() is not threading.main_thread():
        yield  # elastic installs no handler in another thread
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SignalException:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def sigterm_raised() -> Iterator[None]:
    """Raise SignalException at SIGTERM, as elastic does."""

    def end(number, _frame):
        raise SignalException("SIGTERM", signal.Signals(number))

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)
    yield


@contextlib.contextmanager
def silent_elastic() -> Iterator[None]:
    """Hide the agent's log lines; WorkerError holds the information in them."""
    names = "torch.distributed.elastic", "torch.multiprocessing"
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:  # without any handler Python would print warnings
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


@contextlib.contextmanager
def bars_drawn(file: Path) -> Iterator[None]:
    """In an open notebook, draw the bars that a process launched meanwhile relays to `file`."""
    if not in_open_notebook():
        yield
        return
    file.touch()
    # the context holds the cell in which the thread's widgets appear
    with background_thread(partial(copy_context().run, draw_bars, file, progress_bar)):
        yield


@contextlib.contextmanager
def leftover_children_killed() -> Iterator[None]:
    """Kill the processes elastic lost track of when a start or a shutdown was interrupted."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for child in set(multiprocessing.active_children()) - before:
            if isinstance(child, ForkProcess | SpawnProcess):
                child.kill()
                child.join()
