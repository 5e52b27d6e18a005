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

from tqdm import tqdm

from edge_lib.config import ConfigError
from edge_lib.runs.progress import progress_bar
from edge_lib.sources.download.url_worker import NEXT, UrlJob, run_worker

START_METHOD = "spawn"


@contextmanager
def url_progress(total: int, done: Counter[str]) -> Iterator["UrlProgress"]:
    """Shows rows, the share of them that is alive, and bytes. done: counted by earlier calls."""
    with progress_bar("fetch", total, " rows", done["rows"]) as bar:
        yield UrlProgress(bar, done)


class UrlProgress:
    """counts: rows, alive (of the rows), bytes, with those of earlier calls."""

    def __init__(self, bar: tqdm, done: Counter[str]):
        self.bar, self.counts = bar, done.copy()

    def add(self, counts: Counter[str]) -> None:
        self.counts += counts
        alive = self.counts["alive"] / max(1, self.counts["rows"])
        line = f"{alive:.0%} alive, {_size(self.counts['bytes'])}"
        self.bar.set_postfix_str(line, refresh=False)
        self.bar.update(counts["rows"])


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


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
