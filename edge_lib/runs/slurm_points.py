"""The points of a sweep as array jobs of Slurm, which outlive the program that submits them.

The records in <folder>/jobs/ hold the digests of an array's points, in order, or of those that it
prepares. A second start follows the jobs of the first that have not ended.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_lib.config import ConfigError, SweepConfig
from edge_lib.runs.job_watch import JobWatch
from edge_lib.runs.lock import hold_lock
from edge_lib.runs.notebooks import executed_notebook
from edge_lib.runs.point_job import PointJob
from edge_lib.runs.points import Point
from edge_lib.runs.slurm import Key, max_array_size
from edge_lib.runs.slurm_report import JobEnd

SECONDS = 1  # between two looks for results
VISIBLE_SECONDS = 30  # until a file written on another node is seen here

Prepare = Callable[[], None]


def run_on_slurm(
    points: list[Point], sweep: SweepConfig, prepare: Prepare | None
) -> Iterator[tuple[Point, str]]:
    """Yield each point as its job ends, with the cause. Jobs are cancelled if it is closed or
    interrupted earlier, or refused, while those of an earlier start go on after an error.

    prepare: run first, as a job that the others wait for.
    """
    with JobWatch(points[0].folder.parent / "jobs") as watch:
        jobs = PointJobs(watch, sweep)
        with hold_lock(watch.folder / "submit.lock"):  # of two drivers one submits
            if rest := jobs.follow(points):
                jobs.submit(rest, prepare)
        while jobs.points:
            yield from jobs.ended()
            time.sleep(SECONDS)


def _written(files: Iterable[Path]) -> dict[Path, int]:
    """When those that exist were written."""
    return {file: file.stat().st_mtime_ns for file in files if file.exists()}


class PointJobs:
    """The points whose jobs have not ended, or whose results may not be visible yet."""

    def __init__(self, watch: JobWatch, sweep: SweepConfig):
        self.watch, self.sweep = watch, sweep
        self.points: dict[Key, Point] = {}
        self.preparation: Key | None = None
        self.ends: dict[Key, tuple[JobEnd, float]] = {}  # and when each was seen

    def follow(self, points: list[Point]) -> list[Point]:
        """Follow the jobs of points that were submitted earlier; returns the other points."""
        earlier = self.watch.find_earlier()
        rest, preparations = {point.folder.name: point for point in points}, {}
        for key, (job, record) in earlier.items():
            if job.completing:  # the new job of its point waits for the lock of the folder
                continue
            if isinstance(record, dict):
                preparations[key] = record["prepares"]
            elif record[key[1]] in rest:
                self._add(key, rest.pop(record[key[1]]))
        fitting = [key for key, names in preparations.items() if rest.keys() <= {*names}]
        self.preparation = fitting[-1] if fitting else None
        self.watch.follow({key: earlier[key][0] for key in [*self.points, *fitting[-1:]]})
        return [*rest.values()]

    def submit(self, points: list[Point], prepare: Prepare | None) -> None:
        """Submit the points, as several arrays that run one after the other if one is too large."""
        size, previous = max_array_size(), []
        waits_for = [f"afterok:{self._prepare(prepare, points)}"] if prepare else []
        for start in range(0, len(points), size):
            part = points[start : start + size]
            functions = [PointJob(p, self.sweep.notebook, self.sweep.threads) for p in part]
            earlier = _written([executed_notebook(point.folder) for point in part])
            names = [point.folder.name for point in part]
            number, keys = self._submit(functions, names, ",".join(waits_for + previous))
            for key, point in zip(keys, part, strict=True):
                self._add(key, point)
            for notebook in earlier.items() & _written(earlier).items():  # not of these jobs
                notebook[0].unlink(missing_ok=True)
            previous = [f"afterany:{number}"]

    def _add(self, key: Key, point: Point) -> None:
        self.points[key], self.watch.labels[key] = point, str(point.settings)

    def _prepare(self, prepare: Prepare, points: list[Point]) -> str:
        """The number of the job that prepares: one of an earlier start, or a new one."""
        if self.preparation:
            return self.watch.running[self.preparation].number
        record = {"prepares": [point.folder.name for point in points]}
        number, (self.preparation,) = self._submit([prepare], record)
        print(f"job {number} prepares what the points share", flush=True)
        return number

    def _submit(
        self, functions: list[Callable], record: Any, dependency: str = ""
    ) -> tuple[str, list[Key]]:
        sweep = self.sweep
        options = {"timeout_min": 24 * 60, "slurm_array_parallelism": sweep.workers}
        options |= {"cpus_per_task": sweep.threads, "gpus_per_node": sweep.gpus, **sweep.slurm}
        try:
            return self.watch.submit(functions, "sweep", options, record, dependency)
        except ConfigError as error:
            of_gpus = sweep.gpus and "gres" in str(error)
            key = f"sweep.gpus={sweep.gpus}" if of_gpus else "sweep.slurm"
            raise ConfigError(f"{key}: {error}") from None

    def ended(self) -> Iterator[tuple[Point, str]]:
        """The points whose jobs have ended since the last call, and why."""
        for key, end in self.watch.ended():
            if key in self.points:
                self.ends[key] = end, time.monotonic()
            elif not (end.job and end.job.state == "COMPLETED"):
                print(f"what the points share was not prepared: {end.cause()}", flush=True)
        for key, (end, since) in [*self.ends.items()]:
            if end.is_cut_short or _is_visible(self.points[key], since):
                del self.ends[key]
                yield self.points.pop(key), end.cause()


def _is_visible(point: Point, since: float) -> bool:
    """Whether the result is there, or has had the time to become visible on this machine."""
    with suppress(OSError):
        os.listdir(point.folder)  # a network file system looks at the folder again
    return point.state != "pending" or time.monotonic() - since > VISIBLE_SECONDS
