"""Run the points of a sweep, each as one notebook.

    <folder>/<digest>/      a point's run folder, with
        notebook.ipynb      its executed notebook
    <folder>/jobs/          output of the points' processes
    <folder>/sweep.csv      one row per point and metric (written by the command line)

The points run as processes of this machine, a few at a time, or as array jobs of Slurm. A point is
done once it has metrics, failed if its notebook raised, else pending. A sweep that is started again
runs the pending points, and the failed ones if `sweep.retry` is set.
"""

import os
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from signal import Signals

from edge_lib.config import ConfigError, SweepConfig
from edge_lib.runs.allocation import find_allocation
from edge_lib.runs.forked_kernel import prepare_kernels
from edge_lib.runs.forks import CAN_FORK, SERVER, ForkServer
from edge_lib.runs.gpus import worker_devices
from edge_lib.runs.notebooks import executed_notebook, run_error
from edge_lib.runs.point_job import PointJob
from edge_lib.runs.points import Point
from edge_lib.runs.slurm_points import Prepare, run_on_slurm
from edge_lib.runs.slurm_report import UNKNOWN


def run_sweep(
    points: list[Point], sweep: SweepConfig, prepare: Prepare | None = None
) -> list[Point]:
    """Run the pending points and return those without metrics. An interrupt cancels the jobs.

    prepare: makes what the points share; on Slurm they wait for it without taking GPUs, while
        locally the first point that needs it makes it.
    Raises ConfigError inside an srun of several tasks.
    """
    if allocation := find_allocation():
        raise ConfigError(
            f"srun started {allocation.size} tasks, each of which would run the whole sweep; "
            "start it as one (srun --ntasks=1), or without srun and with sweep.cluster=slurm"
        )
    states = ("pending", "failed") if sweep.retry else ("pending",)
    queue = list({p.folder: p for p in points if p.state in states}.values())
    done = sum(point.state == "done" for point in points)
    print(f"{done} of {len(points)} points done, {len(queue)} to run", flush=True)
    if queue:
        on_slurm = sweep.cluster == "slurm"
        _follow(run_on_slurm(queue, sweep, prepare) if on_slurm else run_here(queue, sweep), queue)
    unfinished = [point for point in points if point.state != "done"]
    for point in unfinished:
        notebook = executed_notebook(point.folder)
        hint = f"see {notebook}" if notebook.exists() else ""
        causes = [str(point.settings), run_error(point.folder), hint]
        print(f"{point.state}: {': '.join(filter(None, causes))}", flush=True)
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


def run_here(
    points: list[Point], sweep: SweepConfig, fork: bool = CAN_FORK
) -> Iterator[tuple[Point, str]]:
    """Run points on this machine, as many at once as there are workers; yield each as it ends.

    fork: start points from a process that has imported what their notebook imports. CUDA does not
        survive a fork, so points with GPUs import for themselves.
    """
    folder, waiting = points[0].folder.parent / "jobs", points[::-1]
    folder.mkdir(parents=True, exist_ok=True)
    on_gpus = any(worker_devices(sweep.workers, sweep.gpus))
    prepare = partial(prepare_kernels, sweep.notebook) if fork and not on_gpus else None
    # numpy and torch read the number of threads when they are imported
    variables = {"GOMP_SPINCOUNT": "1000", **os.environ, "OMP_NUM_THREADS": str(sweep.threads)}
    variables |= {} if on_gpus else {"CUDA_VISIBLE_DEVICES": ""}
    while waiting:
        with closing(ForkServer(folder, prepare, variables)) as server:
            yield from _run_with(server, waiting, sweep)


def _run_with(
    server: ForkServer, waiting: list[Point], sweep: SweepConfig
) -> Iterator[tuple[Point, str]]:
    """Run points from the end of `waiting`, until none is left or the server ends."""
    free, running = worker_devices(sweep.workers, sweep.gpus), {}
    try:
        while waiting or running:
            while waiting and free:
                point, devices = waiting.pop(), free.pop(0)
                running[point.folder.name] = point, devices
                executed_notebook(point.folder).unlink(missing_ok=True)  # of an earlier start
                job = PointJob(point, sweep.notebook, sweep.threads, devices)
                server.start(point.folder.name, job)
            name, code = server.ended()
            point, devices = running.pop(name)
            free.append(devices)
            cause = "" if code >= 0 else f"killed by {Signals(-code).name}, "
            yield point, f"{cause}see {server.log(name)}"
    except (EOFError, ConnectionError):
        for point, _ in running.values():
            yield point, f"the process that starts points ended, see {server.log(SERVER)}"
