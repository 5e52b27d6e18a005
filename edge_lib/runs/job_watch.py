"""The Slurm jobs that a program follows: those that it submitted, and those of an earlier start.

<folder>/NAME.json      a record of the array NAME, by which a second start finds its jobs
<folder>/               output of its tasks
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_lib.config import ConfigError
from edge_lib.runs.files import read_json, write_json
from edge_lib.runs.slurm import Job, Key, SlurmError, cancel, find_jobs, new_name, submit
from edge_lib.runs.slurm_report import JobEnd, queue_summary, requeue_cause, was_requeued

LOOK_SECONDS = 1, 10  # between two looks at the queue, at first and later
STATUS_SECONDS = 60  # at least, between two lines on it
RECORDS = f"*-{'[0-9a-f]' * 8}.json"  # of names as new_name makes them
LISTED = 5  # at most, of the jobs that are followed


class JobWatch:
    """The jobs of a folder that have not ended, as squeue showed them last.

    As a context it cancels them when it is interrupted. After an error of this program they go on.
    """

    def __init__(self, folder: Path, status_seconds: float = STATUS_SECONDS):
        self.folder, self.status_seconds = folder, status_seconds
        folder.mkdir(parents=True, exist_ok=True)
        self.running: dict[Key, Job] = {}
        self.names: list[str] = []  # of the arrays submitted here
        self.labels: dict[Key, str] = {}  # of jobs, where it is not the number
        self._started, self._next_look = time.monotonic(), 0.0
        self._answering, self._status, self._next_status = True, "", 0.0

    def find_earlier(self) -> dict[Key, tuple[Job, Any]]:
        """Jobs of earlier starts that have not ended, and the records of their arrays. ConfigError
        for a record that is damaged.
        """
        records = {path.stem: read_json(path) for path in self.folder.glob(RECORDS)}
        jobs = find_jobs(records).items()
        return {key: (job, records[key[0]]) for key, job in jobs if not job.ended}

    def follow(self, jobs: Mapping[Key, Job]) -> None:
        """Also follow jobs of an earlier start."""
        self.running |= jobs
        if numbers := [job.number for job in jobs.values()]:
            listed = ", ".join(numbers[:LISTED]) + (", ..." if len(numbers) > LISTED else "")
            print(f"jobs followed from an earlier start: {len(numbers)} ({listed})", flush=True)

    def submit(
        self,
        functions: Sequence[Callable[[], Any]],
        default_name: str,
        options: Mapping[str, Any],
        record: Any,
        dependency: str = "",
    ) -> tuple[str, list[Key]]:
        """Submit a job, or an array; returns its number, and the key of each of its jobs.

        ConfigError if Slurm refuses it: then those submitted here before are cancelled, while those
        of an earlier start go on.
        """
        self.names.append(name := new_name(default_name, options))
        path = self.folder / f"{name}.json"
        write_json(path, record)
        try:
            number = submit(functions, self.folder, name, options, dependency)
        except ConfigError:
            path.unlink()
            self.cancel(earlier=False)
            raise
        count = len(functions)
        numbers = [f"{number}_{i}" for i in range(count)] if count > 1 else [number]
        jobs = {(name, i): Job(own, "SUBMITTED") for i, own in enumerate(numbers)}
        self.running |= jobs
        print(f"submitted job {number}{f', an array of {count}' if count > 1 else ''}", flush=True)
        return number, [*jobs]

    def ended(self) -> Iterator[tuple[Key, JobEnd]]:
        """The jobs that have ended since the last look at the queue; prints what else changed."""
        if (jobs := self._look()) is None:
            return
        for key, last in [*self.running.items()]:
            job = jobs.get(key)
            if not job or job.ended:
                del self.running[key]
                yield key, JobEnd(job, last, self.folder)
                continue
            self.running[key] = job
            if was_requeued(job, last):
                label = self.labels.get(key, f"job {job.number}")
                print(f"requeued ({requeue_cause(job, self.folder)}): {label}", flush=True)
        self._report_status()

    def _look(self) -> dict[Key, Job] | None:
        """None if it is too early, or Slurm does not answer: then the jobs may well run."""
        if (now := time.monotonic()) < self._next_look:
            return None
        first, later = LOOK_SECONDS
        self._next_look = now + min(first + (now - self._started) / 30, later)
        try:
            jobs = find_jobs({name for name, _ in self.running})
        except SlurmError as error:
            if self._answering:
                print(f"{error}; waiting until it answers", flush=True)
            self._answering = False
            return None
        self._answering = True
        return jobs

    def _report_status(self) -> None:
        status = queue_summary(job for job in self.running.values() if not job.completing)
        if status not in ("", self._status) and (now := time.monotonic()) > self._next_status:
            print(f"Slurm: {status}", flush=True)
            self._status, self._next_status = status, now + self.status_seconds

    def cancel(self, earlier: bool = True) -> None:
        """Cancel the jobs; print those that cannot be. earlier: also those of an earlier start."""
        followed = self.running.items() if earlier else ()
        numbers = [job.number for (name, _), job in followed if name not in self.names]
        self.running = {}
        try:
            cancel(self.names, numbers)
        except SlurmError as error:
            print(error, flush=True)

    def __enter__(self) -> "JobWatch":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_) -> None:
        if isinstance(error, Exception):
            if self.running:
                error.add_note("the Slurm jobs go on: start this again to follow them")
        elif kind:
            self.cancel()
