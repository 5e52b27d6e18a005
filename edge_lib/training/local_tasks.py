"""Copies of a function as independent processes of this machine: one that dies ends no other."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from threading import RLock

from tqdm import tqdm

from edge_lib.runs.forks import redirect_output, stop_processes
from edge_lib.runs.gpus import worker_devices
from edge_lib.runs.parent import end_with_parent, spawned_end_with_this
from edge_lib.training.launch_context import child_environment


class LocalTasks(AbstractContextManager):
    """`count` processes with a GPU each, which they share if there are fewer. They end with its
    context, and when this process does, however it ends. Output: <folder>/task-<number>.log
    """

    visible_seconds = 0

    def __init__(self, function: Callable, count: int, folder: Path):
        context = multiprocessing.get_context("spawn")
        self.running: dict[Path, multiprocessing.Process] = {}
        try:
            with child_environment(count), spawned_end_with_this():
                for number, devices in enumerate(worker_devices(count, 1)):
                    log = folder / f"task-{number}.log"
                    log.unlink(missing_ok=True)  # of an earlier start
                    self.running[log] = context.Process(target=_run, args=(function, log, devices))
                    self.running[log].start()
        except BaseException:
            self.close()
            raise

    def ended(self) -> Iterator[str]:
        """A line for each process that has failed since the last call."""
        for log, process in [*self.running.items()]:
            if process.exitcode is not None:
                del self.running[log]
                if process.exitcode:
                    yield f"{log.stem} ended: {_cause(process.exitcode, log)}"

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        stop_processes(self.running.values())


def _cause(code: int, log: Path) -> str:
    if code < 0:
        return f"{signal.Signals(-code).name}: see {log}"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next(filter(None, map(str.strip, reversed(lines))), f"exit code {code}")
    return f"{last}: see {log}"


def _run(function: Callable, log: Path, devices: str) -> None:
    """In the new process."""
    end_with_parent()
    redirect_output(log)
    sys.stdout.reconfigure(line_buffering=True)
    tqdm.set_lock(RLock())  # its own would leave a semaphore behind when this process is killed
    os.environ["CUDA_VISIBLE_DEVICES"] = devices
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent ends us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # contexts are left
    function()
