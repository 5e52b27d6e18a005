"""Sweeps: one papermill run for each point of a grid and each seed, collected into one table.

    <folder>/<digest>/      a point's run folder, as its notebook makes it, and
        notebook.ipynb      that notebook, executed
    <folder>/jobs/          what submitit's processes printed
    <folder>/sweep.csv      a line for each point and metric (from a shell; notebooks keep it in
                            their run's folder)

1. A sweep is a config with a `sweep` section; each point is that config, less the section, with
   some keys set. Its digest names its folder, so sweeps that share a folder share points.
2. submitit runs the points: here as processes, a few at a time; on Slurm as one array job.
3. A point is done once it has metrics, failed if its notebook holds an error, else open. Started
   again, a sweep runs what is open, and what failed if `sweep.retry` says so.

From a shell: `python -m edge_lib.sweep CONFIG [--overrides "..."]`.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from edge_lib.config import ConfigError
from edge_lib.config import ExperimentConfig
from edge_lib.config import SweepConfig
from edge_lib.config import from_root
from edge_lib.config import load_config
from edge_lib.runs.notebooks import execute
from edge_lib.runs.notebooks import executed
from edge_lib.runs.notebooks import state
from itertools import product
from pathlib import Path
from typing import Any
import argparse
import json
import os
import pandas as pd
import shlex
import submitit
import sys
import time
import yaml


POLL = 0.5  # seconds between looks at the running points


@dataclass(frozen=True)
class Point:
    """One run: its grid's name, the keys it sets, and where it lies."""

    grid: str
    settings: dict[str, Any]  # dotted key -> value; the seed is one of them
    config: ExperimentConfig
    folder: Path

    @property
    def state(self) -> str:
        """done, failed or open."""
        return state(self.folder)

    def metrics(self) -> dict[str, float]:
        return json.loads((self.folder / "metrics.json").read_text())


def make_points(path: str | Path, overrides: str = "") -> list[Point]:
    """All points of a sweep's config, grid by grid. Raises ConfigError, also for a point's keys."""
    config = load_config(path, overrides)
    if config.sweep is None:
        raise ConfigError(f"{path}: has no sweep section")
    folder = sweep_folder(config)
    points = []
    grids = {name: grid for name, grid in config.sweep.grids.items() if grid is not None}
    for name, grid in grids.items():
        for values in product(*grid.values(), config.sweep.seeds):
            settings = dict(zip([*grid, "seed"], values, strict=True))
            words = [f"{key}={_flow(value)}" for key, value in settings.items()]
            point = load_config(path, shlex.join([*shlex.split(overrides), *words, "sweep=null"]))
            points.append(Point(name, settings, point, folder / point.digest()))
    return points


def sweep_folder(config: ExperimentConfig) -> Path:
    return config.sweep.folder or from_root(
        f"runs/sweep-{config.sweep.notebook.stem}-{config.name}"
    )


def run_sweep(points: list[Point], sweep: SweepConfig) -> list[Point]:
    """Run what is open; returns the points that have no metrics then. Interrupted, it stops its
    points.
    """
    todo = list({p.folder: p for p in points if p.state in _wanted(sweep)}.values())
    print(f"{_count(points, 'done')} of {len(points)} points done, {len(todo)} to run", flush=True)
    for point in todo:
        executed(point.folder).unlink(missing_ok=True)  # else it would still seem to have failed
    started, lost = time.monotonic(), 0
    with closing(_jobs(todo, sweep)) as finished:
        for number, (point, job) in enumerate(finished, 1):
            lost += point.state != "done"
            left = (time.monotonic() - started) / number * (len(todo) - number)
            print(f"{number}/{len(todo)} run, {lost} failed, {left:.0f} s left", flush=True)
            if point.state == "open":  # killed, or it never began
                print(f"no result: {point.settings}: {job.paths.stderr}", flush=True)
    failures = [p for p in points if p.state != "done"]
    for point in failures:
        print(f"{point.state}: {point.settings}: see {executed(point.folder)}", flush=True)
    if any(point.state == "failed" for point in failures) and not sweep.retry:
        print("sweep.retry=true runs them again", flush=True)
    return failures


def run_point(point: Point, sweep: SweepConfig) -> None:
    """What a job does."""
    os.environ["OMP_NUM_THREADS"] = str(sweep.threads)
    execute(sweep.notebook, point.folder, point.config)


def collect(points: list[Point]) -> pd.DataFrame:
    """A line for each finished point and metric: grid, its dotted keys, point, metric, value."""
    records = [
        {"grid": point.grid, **point.settings, "point": point.folder.name} | found
        for point in points
        if point.state == "done"
        for found in ({"metric": k, "value": v} for k, v in point.metrics().items())
    ]
    keys = dict.fromkeys(key for point in points for key in point.settings)
    return pd.DataFrame(records, columns=["grid", *keys, "point", "metric", "value"])


def by_dim(table: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """Of a collected table, the metrics `<pattern>.dim<d>`, averaged over those that match: a line
    for each point and dim, with its grid, keys, dim and value."""
    found = table["metric"].str.extract(rf"^(?:{pattern})\.dim(\d+)$")[0]
    kept = table.assign(dim=found.astype(float))[found.notna()].astype({"dim": int})
    keys = ["grid", "point", "dim"]  # grids may share a point
    about = kept.drop(columns=["metric", "value"]).drop_duplicates(keys)
    return about.merge(kept.groupby(keys, as_index=False)["value"].mean(), on=keys)


def _jobs(points: list[Point], sweep: SweepConfig) -> Iterator[tuple[Point, submitit.Job]]:
    """Submit the points and give each with its job as it ends; cancel the rest when closed."""
    waiting, running = list(points), {}
    executor = _executor(points[0].folder.parent / "jobs", sweep) if points else None
    try:
        while waiting or running:
            if sweep.cluster == "slurm" and waiting:
                with executor.batch():  # one array job
                    jobs = [_submit(executor, point, sweep) for point in waiting]
                running, waiting = dict(zip(jobs, waiting, strict=True)), []
            while waiting and len(running) < sweep.workers:
                point = waiting.pop(0)
                running[_submit(executor, point, sweep)] = point
            for job in [job for job in running if job.done()]:
                yield running.pop(job), job
            time.sleep(POLL)
    finally:
        for job in running:
            job.cancel(check=False)  # one that is gone must not keep us from the others


def _submit(executor: submitit.AutoExecutor, point: Point, sweep: SweepConfig) -> submitit.Job:
    return executor.submit(run_point, point, sweep)


def _executor(folder: Path, sweep: SweepConfig) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(folder, cluster=sweep.cluster)
    executor.update_parameters(
        cpus_per_task=sweep.threads,
        # submitit's local executor hides all GPUs but the first of these
        gpus_per_node=sweep.gpus,
        slurm_array_parallelism=sweep.workers,
        **{"name": "sweep", "timeout_min": 24 * 60, **sweep.slurm},
    )
    return executor


def _wanted(sweep: SweepConfig) -> tuple[str, ...]:
    return ("open", "failed") if sweep.retry else ("open",)


def _count(points: list[Point], state: str) -> int:
    return sum(point.state == state for point in points)


def _flow(value) -> str:
    """YAML on one line, as an override takes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edge_lib.sweep", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--overrides", default="")
    options = parser.parse_args(arguments)
    config, points = (f(options.config, options.overrides) for f in (load_config, make_points))
    lost = run_sweep(points, config.sweep)
    path = sweep_folder(config) / "sweep.csv"
    collect(points).to_csv(path, index=False)
    print(path)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
