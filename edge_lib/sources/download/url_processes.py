"""Start the processes of a URL download, and follow them to the end."""

import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType

from edge_lib.config import ConfigError
from edge_lib.sources.download.progress import UrlProgress
from edge_lib.sources.download.url_worker import NEXT, UrlJob, run_worker

START_METHOD = "spawn"


def run_processes(jobs: Sequence[UrlJob], numbers: Iterable[int], progress: UrlProgress) -> None:
    """Finish the shards of `numbers` in a process for each job; each is given to one that asks.

    Raises ConfigError with what stopped one of them, and ends the others; all that was fetched is
    kept then, as when this process is interrupted or killed.
    """
    numbers = iter(numbers)
    with _started(jobs) as processes:
        while processes:
            for link in wait([*processes]):
                message = _receive(link, processes)
                if isinstance(message, str):
                    kept = "what was fetched is kept: run the same command again"
                    raise ConfigError(f"{jobs[0].out}: {message}; {kept}")
                if message == NEXT:
                    with suppress(ConnectionError):  # it has died, which the link tells next
                        link.send(next(numbers, None))
                elif message:
                    progress.add(message)


def _receive(
    link: Connection, processes: dict[Connection, BaseProcess]
) -> Counter[str] | str | bytes | None:
    """What a process sends; at its end None, or why it failed."""
    try:
        return link.recv()
    except (EOFError, ConnectionError):
        return _exit_problem(processes.pop(link))


@contextmanager
def _started(jobs: Sequence[UrlJob]) -> Iterator[dict[Connection, BaseProcess]]:
    """The processes by the connection to each; ended on exit."""
    context, processes = multiprocessing.get_context(START_METHOD), {}
    try:
        for job in jobs:
            link, other_end = context.Pipe()
            process = context.Process(target=run_worker, args=(job, other_end), daemon=True)
            with _interrupts_blocked(), _main_hidden():  # this process stops the new one
                process.start()
            other_end.close()  # so that the link ends when the process does
            processes[link] = process
        yield processes.copy()
    finally:
        for process in processes.values():
            process.kill()
            process.join()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    resource_tracker.ensure_running()  # its start, with the first process, would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _main_hidden() -> Iterator[None]:
    """New processes would import the user's script, which may itself call `download`."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _exit_problem(process: BaseProcess) -> str | None:
    process.join()
    hint = " (killed, maybe as memory was short)" if process.exitcode == -signal.SIGKILL else ""
    return f"a process ended with exit code {process.exitcode}{hint}" if process.exitcode else None
