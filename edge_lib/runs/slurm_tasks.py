"""Copies of a function as tasks of Slurm arrays, which outlive the program that submits them.

<folder>/NAME.json      an array's number of tasks; a second start finds the jobs by these files
<folder>/               output of the tasks
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_lib.config import ConfigError
from edge_lib.runs.files import write_json
from edge_lib.runs.slurm import (
    Job,
    SlurmError,
    cancel,
    find_jobs,
    max_array_size,
    new_name,
    submit,
)
from edge_lib.runs.slurm_report import end_cause, log_file, requeue_cause, was_requeued

Key = tuple[str, int]  # an array's name and a task's index


class SlurmTasks:
    """`count` tasks, or those of an earlier start that have not ended."""

    visible_seconds = 30

    def __init__(self, function: Callable, count: int, folder: Path, options: Mapping[str, Any]):
        self.folder, self.answering = folder, True
        self.names = [path.stem for path in folder.glob("*.json")]
        jobs = find_jobs(self.names)
        self.running = {k: j for k, j in jobs.items() if not j.ended and j.state != "COMPLETING"}
        if self.running:
            print(f"tasks followed from an earlier start: {len(self.running)}", flush=True)
            return
        self.names, size = [], max_array_size()
        try:
            for start in range(0, count, size):
                self._submit([function] * min(size, count - start), options)
        except BaseException:
            self.close()
            raise

    def _submit(self, functions: list[Callable], options: Mapping[str, Any]) -> None:
        options = {"timeout_min": 24 * 60, **options}
        name = new_name("extract", options)
        self.names.append(name)
        path = self.folder / f"{name}.json"
        write_json(path, len(functions))
        try:
            number = submit(functions, self.folder, name, options)
        except ConfigError as error:
            path.unlink()
            raise ConfigError(f"features.slurm: {error}") from None
        jobs = {(name, i): Job(f"{number}_{i}", "PENDING") for i in range(len(functions))}
        self.running |= jobs
        print(f"submitted job {number}, tasks: {len(functions)}", flush=True)

    def ended(self) -> Iterator[str]:
        """A line for each task that has failed or was requeued since the last call."""
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
                    cause = requeue_cause(job, self.folder) or f"see {log_file(self.folder, job)}"
                    yield f"task {job.number} requeued: {cause}"
                continue
            del self.running[key]
            if not job or job.state != "COMPLETED":
                yield f"task {last.number} ended: {end_cause(job, last, self.folder)}"

    def close(self) -> None:
        """Cancel the tasks that have not ended; print those that cannot be."""
        try:
            cancel(self.names)
        except SlurmError as error:
            print(error, flush=True)
