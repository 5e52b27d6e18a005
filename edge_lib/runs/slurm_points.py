"""The points of a sweep as array jobs of Slurm, which outlive the program that submits them.

    <folder>/jobs/NAME.json     the points of the array NAME, in order, or those that it prepares
    <folder>/jobs/              output of its tasks

A second start finds the jobs of the first by these files, and follows those that have not ended.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from edge_lib.config import ConfigError, SweepConfig
from edge_lib.runs.files import write_json
from edge_lib.runs.lock import hold_lock
from edge_lib.runs.notebooks import executed_notebook
from edge_lib.runs.point_job import PointJob
from edge_lib.runs.points import Point
from edge_lib.runs.slurm import (
    Job,
    SlurmError,
    cancel,
    find_jobs,
    max_array_size,
    new_name,
    submit,
)
from edge_lib.runs.slurm_report import (
    end_cause,
    is_cut_short,
    queue_summary,
    requeue_cause,
    was_requeued,
)

SECONDS = 1, 10  # between two looks at the queue, at first and later
STATUS_SECONDS = 60  # at least, between two lines on it
VISIBLE_SECONDS = 30  # until a file written on another node is seen here

Prepare = Callable[[], None]
Key = tuple[str, int]  # an array's name and a task's index


def run_on_slurm(
    points: list[Point], sweep: SweepConfig, prepare: Prepare | None
) -> Iterator[tuple[Point, str]]:
    """Yield each point as its job ends, with the cause. Jobs are cancelled if it is closed or
    interrupted earlier, or refused, while those of an earlier start go on after an error.

    prepare: run first, as a job that the others wait for.
    """
    jobs = PointJobs(points[0].folder.parent / "jobs", sweep)
    try:
        with hold_lock(jobs.folder / "submit.lock"):  # of two drivers one submits
            if rest := jobs.attach(points):
                jobs.submit(rest, prepare)
        start = time.monotonic()
        while jobs.running:
            yield from jobs.ended()
            time.sleep(min(SECONDS[0] + (time.monotonic() - start) / 30, SECONDS[1]))
    except ConfigError:
        jobs.cancel(attached=False)
        raise
    except Exception as error:
        error.add_note("the jobs go on: the same command follows them")
        raise
    except BaseException:
        jobs.cancel()
        raise


def _written(files: Iterable[Path]) -> dict[Path, int]:
    """When those that exist were written."""
    return {file: file.stat().st_mtime_ns for file in files if file.exists()}


class PointJobs:
    """The jobs of a sweep that have not ended, and what squeue last said of them."""

    def __init__(self, folder: Path, sweep: SweepConfig):
        self.folder, self.sweep = folder, sweep
        self.folder.mkdir(parents=True, exist_ok=True)
        self.running: dict[Key, Point] = {}
        self.names: list[str] = []  # of the arrays submitted here
        self.preparation: Key | None = None
        self.jobs: dict[Key, Job] = {}
        self.ended_since: dict[Key, float] = {}
        self.answering, self.status, self.status_time = True, "", float("-inf")

    def attach(self, points: list[Point]) -> list[Point]:
        """Follow the jobs of points that were submitted earlier; returns the other points."""
        arrays = {path.stem: json.loads(path.read_text()) for path in self.folder.glob("*.json")}
        rest, preparations = {point.folder.name: point for point in points}, {}
        for (name, index), job in find_jobs(arrays).items():
            if job.ended or job.state == "COMPLETING":
                continue
            if isinstance(arrays[name], dict):
                preparations[name, index] = job
            elif (digest := arrays[name][index]) in rest:
                self.running[name, index] = rest.pop(digest)
                self.jobs[name, index] = job
        for key, job in preparations.items():
            if rest.keys() <= {*arrays[key[0]]["prepares"]}:
                self.preparation, self.jobs[key] = key, job
        if self.running:
            print(f"jobs followed from an earlier start: {len(self.running)}", flush=True)
        return [*rest.values()]

    def submit(self, points: list[Point], prepare: Prepare | None) -> None:
        """Submit the points, as several arrays that run one after the other if one is too large."""
        size, previous = max_array_size(), []
        waits_for = [f"afterok:{self._prepare(prepare, points)}"] if prepare else []
        for start in range(0, len(points), size):
            part = points[start : start + size]
            functions = [PointJob(p, self.sweep.notebook, self.sweep.threads) for p in part]
            earlier = _written([executed_notebook(point.folder) for point in part])
            number = self._submit(functions, part, ",".join(waits_for + previous))
            self.running |= {(self.names[-1], index): point for index, point in enumerate(part)}
            for notebook in earlier.items() & _written(earlier).items():  # not of these jobs
                notebook[0].unlink(missing_ok=True)
            print(f"submitted job {number}, points: {len(part)}", flush=True)
            previous = [f"afterany:{number}"]

    def _prepare(self, prepare: Prepare, points: list[Point]) -> str:
        """The number of the job that prepares: one of an earlier start, or a new one."""
        if self.preparation:
            return self.jobs[self.preparation].number
        number = self._submit([prepare], points, "", prepares=True)
        self.preparation = self.names[-1], 0
        print(f"submitted job {number}, which prepares what the points share", flush=True)
        return number

    def _submit(
        self,
        functions: list[Callable],
        points: list[Point],
        dependency: str,
        prepares: bool = False,
    ) -> str:
        sweep, names = self.sweep, [point.folder.name for point in points]
        options = {"timeout_min": 24 * 60, "slurm_array_parallelism": sweep.workers}
        options |= {"cpus_per_task": sweep.threads, "gpus_per_node": sweep.gpus, **sweep.slurm}
        try:
            self.names.append(name := new_name("sweep", options))
            path = self.folder / f"{name}.json"
            write_json(path, {"prepares": names} if prepares else names)
            try:
                return submit(functions, self.folder, name, options, dependency)
            except ConfigError:
                path.unlink()
                raise
        except ConfigError as error:
            hint = " (sweep.gpus is not 0)" if sweep.gpus and "gres" in str(error) else ""
            raise ConfigError(f"sweep.slurm: {error}{hint}") from None

    def ended(self) -> Iterator[tuple[Point, str]]:
        """The points whose jobs have ended since the last call, and why."""
        if (jobs := self._find_jobs()) is None:
            return
        before, self.jobs = self.jobs, self.jobs | jobs
        self._report_preparation()
        for key, point in [*self.running.items()]:
            job, last = jobs.get(key), before.get(key)
            if job and not job.ended:
                self._report_requeue(point, job, last)
            elif is_cut_short(job, last) or self._is_visible(key, point):
                del self.running[key]
                yield point, end_cause(job, last, self.folder)
        self._report_status()

    def _find_jobs(self) -> dict[Key, Job] | None:
        """None if Slurm does not answer: then the jobs may well run."""
        keys = {*self.running, *filter(None, [self.preparation])}
        try:
            jobs = find_jobs({name for name, _ in keys})
        except SlurmError as error:
            if self.answering:
                print(f"{error}; waiting until it answers", flush=True)
            self.answering = False
            return None
        self.answering = True
        return {key: job for key, job in jobs.items() if key in keys}

    def _is_visible(self, key: Key, point: Point) -> bool:
        """Whether the result is there, or has had the time to become visible on this machine."""
        with suppress(OSError):
            os.listdir(point.folder)  # a network file system looks at the folder again
        since = self.ended_since.setdefault(key, time.monotonic())
        return point.state != "pending" or time.monotonic() - since > VISIBLE_SECONDS

    def _report_preparation(self) -> None:
        job = self.jobs.get(self.preparation)
        if job and job.ended:
            self.preparation = None
            if job.state != "COMPLETED":
                cause = end_cause(job, None, self.folder)
                print(f"what the points share was not prepared: {cause}", flush=True)

    def _report_requeue(self, point: Point, job: Job, last: Job | None) -> None:
        if was_requeued(job, last):
            cause = requeue_cause(job, self.folder)
            print(f"requeued ({cause}): {point.settings}", flush=True)

    def _report_status(self) -> None:
        status = queue_summary(self.jobs[key] for key in self.running if key in self.jobs)
        since = time.monotonic() - self.status_time
        if status not in ("", self.status) and since > STATUS_SECONDS:
            print(f"Slurm: {status}", flush=True)
            self.status, self.status_time = status, time.monotonic()

    def cancel(self, attached: bool = True) -> None:
        """Cancel the jobs that have not ended; print those that cannot be. attached: also those of
        an earlier start.
        """
        keys = filter(None, [*self.running, self.preparation] if attached else [])
        numbers = [self.jobs[key].number for key in keys if key[0] not in self.names]
        try:
            cancel(self.names, numbers)
        except SlurmError as error:
            print(error, flush=True)
