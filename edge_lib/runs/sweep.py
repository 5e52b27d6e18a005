"""Run the points of a sweep, each as one notebook.

    <folder>/<digest>/      a point's run folder, with
        notebook.ipynb      its executed notebook
    <folder>/jobs/          output of submitit's processes
    <folder>/sweep.csv      one row per point and metric (written by the command line)

submitit runs the points: as local processes, a few at a time, or as array jobs of Slurm. A point is
done once it has metrics, failed if its notebook raised, else pending. A sweep that is started again
runs the pending points, and the failed ones if `sweep.retry` is set.
"""

import time
from collections.abc import Iterator
from contextlib import closing

import submitit

from edge_lib.config import SweepConfig
from edge_lib.runs.gpus import worker_devices
from edge_lib.runs.notebooks import executed_notebook
from edge_lib.runs.point_job import PointJob
from edge_lib.runs.points import Point
from edge_lib.runs.slurm_points import Prepare, run_on_slurm
from edge_lib.runs.slurm_report import UNKNOWN

POLL_SECONDS = 0.5


def run_sweep(
    points: list[Point], sweep: SweepConfig, prepare: Prepare | None = None
) -> list[Point]:
    """Run the pending points and return those without metrics. An interrupt cancels the jobs.

    prepare: makes what the points share; on Slurm they wait for it without taking GPUs, while
        locally the first point that needs it makes it.
    """
    states = ("pending", "failed") if sweep.retry else ("pending",)
    queue = list({p.folder: p for p in points if p.state in states}.values())
    done = sum(point.state == "done" for point in points)
    print(f"{done} of {len(points)} points done, {len(queue)} to run", flush=True)
    if queue:
        on_slurm = sweep.cluster == "slurm"
        _follow(run_on_slurm(queue, sweep, prepare) if on_slurm else _run_here(queue, sweep), queue)
    unfinished = [point for point in points if point.state != "done"]
    for point in unfinished:
        notebook = executed_notebook(point.folder)
        hint = f": see {notebook}" if notebook.exists() else ""
        print(f"{point.state}: {point.settings}{hint}", flush=True)
    if any(point.state == "failed" for point in unfinished) and not sweep.retry:
        print("set sweep.retry=true to run failed points again", flush=True)
    return unfinished


def _follow(jobs: Iterator[tuple[Point, str]], queue: list[Point]) -> None:
    """Print the progress and the remaining time as jobs end, and why one has no result."""
    start, failed = time.monotonic(), 0
    with closing(jobs) as ended:
        for number, (point, cause) in enumerate(ended, 1):
            failed += point.state != "done"
            remaining = (time.monotonic() - start) / number * (len(queue) - number)
            print(f"{number}/{len(queue)} run, {failed} failed, {remaining:.0f} s left", flush=True)
            if point.state == "pending" or (point.state == "failed" and _adds(cause)):
                print(f"no result: {point.settings}: {cause}", flush=True)


def _adds(cause: str) -> bool:
    """Whether a cause says more than a notebook that raised."""
    return not cause.startswith(("failed", "see ", UNKNOWN))


def _run_here(queue: list[Point], sweep: SweepConfig) -> Iterator[tuple[Point, str]]:
    """Run the points in processes of this machine, as many at once as there are workers."""
    executor = submitit.AutoExecutor(queue[0].folder.parent / "jobs", cluster="local")
    executor.update_parameters(**{"timeout_min": 24 * 60, **sweep.slurm})
    free, running = worker_devices(sweep.workers, sweep.gpus), {}
    waiting = list(reversed(queue))
    try:
        while waiting or running:
            while waiting and free:
                point, devices = waiting.pop(), free.pop(0)
                function = PointJob(point, sweep.notebook, sweep.threads, devices)
                executed_notebook(point.folder).unlink(missing_ok=True)  # of an earlier start
                running[executor.submit(function)] = point, devices
            for job in [job for job in running if job.done()]:
                point, devices = running.pop(job)
                free.append(devices)
                yield point, f"see {job.paths.stderr}"
            time.sleep(POLL_SECONDS)
    finally:
        for job in running:
            job.cancel(check=False)  # do not stop at a job that has already ended
