"""Start the processes of a URL download, and follow them to the end."""

import multiprocessing
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from edge_lib.config import ConfigError
from edge_lib.sources.download.progress import UrlProgress
from edge_lib.sources.download.url_worker import UrlJob, run_worker

START_METHOD = "spawn"


def run_processes(jobs: Sequence[UrlJob], numbers: list[int], progress: UrlProgress) -> None:
    """Finish the shards of `numbers` in a process for each job.

    Raises ConfigError with what stopped one of them, and ends the others; all that was fetched is
    kept then, as when this process is interrupted or killed.
    """
    with _started(jobs, numbers) as processes:
        while processes:
            for reports in wait([*processes]):
                message = _receive(reports)
                if message is None:
                    _check_exit(processes.pop(reports))
                elif isinstance(message, str):
                    raise ConfigError(f"{message}; what was fetched is kept: run the same again")
                else:
                    progress.add(message)


@contextmanager
def _started(jobs: Sequence[UrlJob], numbers: list[int]) -> Iterator[dict[Connection, BaseProcess]]:
    """The processes by the pipe that each writes to; ended on exit."""
    context, processes = multiprocessing.get_context(START_METHOD), {}
    claims = context.Value("q", 0)
    try:
        for job in jobs:
            reports, sender = context.Pipe(duplex=False)
            arguments = job, numbers, claims, sender
            process = context.Process(target=run_worker, args=arguments, daemon=True)
            process.start()
            sender.close()  # so that the pipe ends when the process does
            processes[reports] = process
        yield processes.copy()
    finally:
        for process in processes.values():
            process.kill()
            process.join()


def _receive(reports: Connection) -> Counter[str] | str | None:
    """None at the end."""
    try:
        return reports.recv()
    except EOFError:
        return None


def _check_exit(process: BaseProcess) -> None:
    process.join()
    if process.exitcode:
        raise ConfigError(
            f"a process of the download ended with exit code {process.exitcode} (-9: killed, "
            "maybe for want of memory); what was fetched is kept: run the same again"
        )
