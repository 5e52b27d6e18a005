"""Run the points of a sweep, each as one notebook.

    <folder>/<digest>/      a point's run folder, with
        notebook.ipynb      its executed notebook
    <folder>/jobs/          output of submitit's processes
    <folder>/sweep.csv      one row per point and metric (written by the command line)

submitit runs the points: as local processes, a few at a time, or as one Slurm array job. A point is
done once it has metrics, failed if its notebook raised, else pending. A sweep that is started again
runs the pending points, and the failed ones if `sweep.retry` is set.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing

import submitit

from edge_lib.config import SweepConfig
from edge_lib.runs.notebooks import execute_notebook, executed_notebook
from edge_lib.runs.points import Point

POLL_SECONDS = 0.5


def run_sweep(points: list[Point], sweep: SweepConfig) -> list[Point]:
    """Run the pending points and return those without metrics. An interrupt cancels the jobs."""
    states = ("pending", "failed") if sweep.retry else ("pending",)
    queue = list({p.folder: p for p in points if p.state in states}.values())
    done = sum(point.state == "done" for point in points)
    print(f"{done} of {len(points)} points done, {len(queue)} to run", flush=True)
    for point in queue:
        executed_notebook(point.folder).unlink(missing_ok=True)  # from an earlier failure
    _run_queue(queue, sweep)
    unfinished = [point for point in points if point.state != "done"]
    for point in unfinished:
        print(f"{point.state}: {point.settings}: see {executed_notebook(point.folder)}", flush=True)
    if any(point.state == "failed" for point in unfinished) and not sweep.retry:
        print("set sweep.retry=true to run failed points again", flush=True)
    return unfinished


def run_point(point: Point, sweep: SweepConfig) -> None:
    """The function of a submitit job."""
    os.environ["OMP_NUM_THREADS"] = str(sweep.threads)
    execute_notebook(sweep.notebook, point.folder, point.config)


def _run_queue(queue: list[Point], sweep: SweepConfig) -> None:
    """Run points and print the progress and the remaining time."""
    start, failed = time.monotonic(), 0
    with closing(_run_jobs(queue, sweep)) as finished:
        for number, (point, job) in enumerate(finished, 1):
            failed += point.state != "done"
            remaining = (time.monotonic() - start) / number * (len(queue) - number)
            print(f"{number}/{len(queue)} run, {failed} failed, {remaining:.0f} s left", flush=True)
            if point.state == "pending":  # killed, or it never started
                print(f"no result: {point.settings}: see {job.paths.stderr}", flush=True)


def _run_jobs(queue: list[Point], sweep: SweepConfig) -> Iterator[tuple[Point, submitit.Job]]:
    """Submit the points and yield each with its job as it ends; cancel the others when closed."""
    waiting, running = list(queue), {}
    executor = _make_executor(queue[0], sweep) if queue else None
    try:
        while waiting or running:
            slots = len(waiting) if sweep.cluster == "slurm" else sweep.workers - len(running)
            running |= _submit(executor, waiting[:slots], sweep)
            waiting = waiting[slots:]
            for job in [job for job in running if job.done()]:
                yield running.pop(job), job
            time.sleep(POLL_SECONDS)
    finally:
        for job in running:
            job.cancel(check=False)  # do not stop at a job that has already ended


def _submit(executor, points: list[Point], sweep: SweepConfig) -> dict[submitit.Job, Point]:
    """Jobs of `points`; on Slurm they are one array job."""
    if not points:
        return {}
    with executor.batch():
        jobs = [executor.submit(run_point, point, sweep) for point in points]
    return dict(zip(jobs, points, strict=True))


def _make_executor(point: Point, sweep: SweepConfig) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(point.folder.parent / "jobs", cluster=sweep.cluster)
    executor.update_parameters(
        cpus_per_task=sweep.threads,
        # submitit's local executor hides all other GPUs
        gpus_per_node=sweep.gpus,
        slurm_array_parallelism=sweep.workers,
        **{"name": "sweep", "timeout_min": 24 * 60, **sweep.slurm},
    )
    return executor
