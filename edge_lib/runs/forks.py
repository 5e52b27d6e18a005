"""Functions run in processes that are forked from one that has imported what they need.

    this process --spawn--> server, which imports once --fork--> a process for each function

A process that dies takes only itself. All end with the process that started the server, however
that one ended.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from edge_lib.runs.parent import end_with_parent

STOP_SECONDS = 4  # to end after SIGTERM
SERVER = "server"  # names its log
# on macOS, system libraries do not survive a fork
CAN_FORK = sys.platform == "linux"


class ForkServer:
    """Runs functions in processes of their own; `close` ends those that still run.

    folder: for logs of what the processes print.
    prepare: called in the server first, for what it imports; without it, each process is a new
        Python.
    variables: the server's environment.
    """

    def __init__(self, folder: Path, prepare: Callable[[], None] | None, variables: dict[str, str]):
        context, self.folder = get_context("spawn"), folder
        self._connection, connection = context.Pipe()
        self._process = context.Process(target=_serve, args=(connection, folder, prepare))
        with _environment(variables):
            self._process.start()
        connection.close()  # so that the end of the server is seen here

    def start(self, name: str, function: Callable[[], None]) -> None:
        """Run `function()` in a new process. BrokenPipeError if the server has ended."""
        self._connection.send((name, function))

    def ended(self) -> tuple[str, int]:
        """Wait for a process to end; its name and exit code. EOFError if the server has ended."""
        return self._connection.recv()

    def log(self, name: str) -> Path:
        return log_file(self.folder, name)

    def close(self) -> None:
        """End what runs. A server that still imports does not see this, and is ended by force."""
        self._connection.close()
        self._process.join(STOP_SECONDS + 2)
        stop_processes([self._process])


def log_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.log"


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables; restore them after."""
    before = os.environ.copy()
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _serve(connection: Connection, folder: Path, prepare: Callable[[], None] | None) -> None:
    """In the server: start a process for each message, report each that ends."""
    context, running = get_context("fork" if prepare else "spawn"), {}
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that was interrupted stops this one
    redirect_output(log_file(folder, SERVER))
    if prepare:
        prepare()
    try:
        while True:
            for name in [name for name, process in running.items() if process.exitcode is not None]:
                connection.send((name, running.pop(name).exitcode))
            # a sentinel that a process left behind keeps open is not waited for
            sentinels = [process.sentinel for process in running.values()]
            if connection in wait([connection, *sentinels], timeout=1):
                name, function = connection.recv()
                running[name] = context.Process(
                    target=_run, args=(function, log_file(folder, name))
                )
                running[name].start()
    except (EOFError, OSError):  # the other end is closed, or its process has ended
        stop_processes(running.values())


def _run(function: Callable[[], None], log: Path) -> None:
    redirect_output(log)
    end_with_parent()
    function()


def redirect_output(log: Path) -> None:
    """Send stdout and stderr of this process, its C++ code and its children to one file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def stop_processes(processes: Iterable[BaseProcess]) -> None:
    """Terminate processes, and kill those that have not ended in time."""
    started = [process for process in processes if process.pid]
    deadline = time.monotonic() + STOP_SECONDS
    for process in started:
        process.terminate()
    for process in started:
        process.join(max(0, deadline - time.monotonic()))
        process.kill()
    for process in started:
        process.join(1)  # not for ever: of a process that hangs in a file system
