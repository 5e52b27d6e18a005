"""What surrounds a launch: the environment of children, signals, loggers, leftovers."""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess

from torch.distributed.elastic.multiprocessing import SignalException


@contextlib.contextmanager
def _inherited(num_processes: int) -> Iterator[None]:
    """What children inherit (of OpenMP, and where to import from), put back afterwards."""
    names = "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "TORCHELASTIC_SIGNALS_TO_HANDLE"  # elastic's
    before, paths = {n: os.environ[n] for n in names if n in os.environ}, sys.path[:]
    affinity = getattr(os, "sched_getaffinity", None)  # what a container grants; Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // num_processes)))
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # A spawned process reads "" as the directory Python started in, not as the current one.
    sys.path[:] = [path or os.getcwd() for path in paths]
    try:
        yield
    finally:
        sys.path[:] = paths
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextlib.contextmanager
def _sigterm_put_back() -> Iterator[None]:
    """Put back elastic's SIGTERM handler; a SIGTERM it caught then does what it does outside."""
    if threading.current_thread() is not threading.main_thread():
        yield  # elastic installs none here
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
def _elastic_silenced() -> Iterator[None]:
    """Drop the agent's own log lines: what matters in them is in WorkerError."""
    names = "torch.distributed.elastic", "torch.multiprocessing"
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:  # without any handler at all Python would print warnings
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


@contextlib.contextmanager
def _no_child_left() -> Iterator[None]:
    """Kill what elastic does not know of: processes of a start or a shutdown interrupted midway."""
    before = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for child in set(multiprocessing.active_children()) - before:
            if isinstance(child, SpawnProcess):
                child.kill()
                child.join()
