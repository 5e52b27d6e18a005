"""Copies of a function as tasks of Slurm arrays, which outlive the program that submits them.

<folder>/NAME.json      an array's number of tasks; a second start finds the jobs by these files
<folder>/               output of the tasks
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_lib.config import ConfigError
from edge_lib.runs.files import write_json
from edge_lib.runs.lock import hold_lock
from edge_lib.runs.slurm import (
    Job,
    SlurmError,
    cancel,
    find_jobs,
    gpu_options,
    max_array_size,
    new_name,
    submit,
)
from edge_lib.runs.slurm_report import end_cause, queue_summary, requeue_cause, was_requeued

STATUS_SECONDS = 60  # at least, between two lines on the queue

Key = tuple[str, int]  # an array's name and a task's index


class SlurmTasks:
    """`count` tasks, or those of an earlier start that have not ended."""

    visible_seconds = 30

    def __init__(self, function: Callable, count: int, folder: Path, options: Mapping[str, Any]):
        self.folder, self.answering, self.status, self.next_status = folder, True, "", 0.0
        self.names: list[str] = []
        try:
            with hold_lock(folder / "submit.lock"):  # of two drivers one submits
                self.running = self._find_running([path.stem for path in folder.glob("*.json")])
                if not self.running:
                    self._submit_all([function] * count, options)
        except BaseException:
            self.close()
            raise

    def _find_running(self, names: list[str]) -> dict[Key, Job]:
        """Tasks of an earlier start."""
        jobs = find_jobs(names)
        running = {k: j for k, j in jobs.items() if not j.ended and j.state != "COMPLETING"}
        self.names = [*{name for name, _ in running}]
        if running:
            print(f"tasks followed from an earlier start: {len(running)}", flush=True)
        return running

    def _submit_all(self, functions: list[Callable], options: Mapping[str, Any]) -> None:
        """As several arrays if one is too large."""
        size = max_array_size()
        try:
            options = {"timeout_min": 24 * 60, **gpu_options(1, options), **options}
            for start in range(0, len(functions), size):
                self._submit(functions[start : start + size], options)
        except ConfigError as error:
            raise ConfigError(f"features.slurm: {error}") from None

    def _submit(self, functions: list[Callable], options: Mapping[str, Any]) -> None:
        self.names.append(name := new_name("extract", options))
        path = self.folder / f"{name}.json"
        write_json(path, len(functions))
        try:
            number = submit(functions, self.folder, name, options)
        except ConfigError:
            path.unlink()
            raise
        jobs = {(name, i): Job(f"{number}_{i}", "PENDING") for i in range(len(functions))}
        self.running |= jobs
        print(f"submitted job {number}, tasks: {len(functions)}", flush=True)

    def ended(self) -> Iterator[str]:
        """A line for each task that has failed or was requeued since the last call, and on what the
        others wait for.
        """
        try:
            jobs = find_jobs(self.names)
        except SlurmError as error:
            if self.answering:
                yield f"{error}; waiting until it answers"
            self.answering = False
            return
        self.answering = True
        for key, last in [*self.running.items()]:
            job = jobs.get(key)
            if job and not job.ended:
                self.running[key] = job
                if was_requeued(job, last):
                    yield f"task {job.number} requeued: {requeue_cause(job, self.folder)}"
                continue
            del self.running[key]
            if not job or job.state != "COMPLETED":
                yield f"task {last.number} ended: {end_cause(job, last, self.folder)}"
        yield from self._status()

    def _status(self) -> Iterator[str]:
        """A line on what the tasks wait for, if that has changed, at most once a minute."""
        status = queue_summary(self.running.values())
        if "pending" in status and status != self.status and time.monotonic() > self.next_status:
            self.status, self.next_status = status, time.monotonic() + STATUS_SECONDS
            yield f"Slurm: {status}"

    def close(self) -> None:
        """Cancel the tasks that have not ended; print those that cannot be."""
        try:
            cancel(self.names)
        except SlurmError as error:
            print(error, flush=True)
