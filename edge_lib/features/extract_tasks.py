"""Feature extraction by tasks that may die: processes of this machine, or array jobs of Slurm.

The tasks share the shards, so those that are left do the work of one that died. On Slurm they
outlive the program that submitted them; a second start follows them.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from edge_lib.config import ConfigError, DataConfig, FeatureSpec
from edge_lib.features.extract import (
    Counts,
    check_outputs,
    count_items,
    incomplete,
    share_features,
    store_writers,
)
from edge_lib.features.store_writer import StoreWriter
from edge_lib.runs.progress import progress_bar
from edge_lib.runs.slurm_tasks import SlurmTasks
from edge_lib.training.local_tasks import LocalTasks

POLL_SECONDS = 1


class Tasks(AbstractContextManager, Protocol):
    """Copies of a function that run at once, until the end of the context."""

    running: dict
    visible_seconds: float  # until a file that one wrote is seen here

    def ended(self) -> Iterable[str]:
        """A line for each task that has failed since the last call."""


def run_tasks(
    data: DataConfig,
    spec: FeatureSpec,
    count: int,
    cluster: Literal["local", "slurm"],
    log_dir: Path,
) -> tuple[Counts, list[str]]:
    """Write the missing stores with `count` tasks. Returns the counts of the complete stores, and a
    line for each that lacks shards as all tasks have ended; the next start goes on.
    """
    if count < 1:
        raise ConfigError(f"--tasks: expected at least 1, got {count}")
    writers = store_writers(data, spec)
    if missing := incomplete({writer.folder: writer for writer in writers.values()}.values()):
        check_outputs(spec)
        log_dir = log_dir / f"extract-{_digest(writers.values())}"
        log_dir.mkdir(parents=True, exist_ok=True)
        function = partial(share_features, data, spec)
        if cluster == "slurm":
            tasks = SlurmTasks(function, count, log_dir, spec.features.slurm)
        else:
            tasks = LocalTasks(function, count, log_dir)
        with tasks:
            _follow(tasks, missing)
    ready = {names: writer for names, writer in writers.items() if writer.is_ready()}
    return count_items(ready), [_missing_line(w) for w in missing if not w.is_ready()]


def _digest(writers: Iterable[StoreWriter]) -> str:
    """Names the stores, so that tasks of other stores have other files."""
    names = sorted({writer.folder.name for writer in writers})
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]


def _follow(tasks: Tasks, writers: list[StoreWriter]) -> None:
    """Show the progress of all tasks until the stores are complete, or no task is left."""
    total, started = _items_left(writers), time.monotonic()
    last_running = started
    with progress_bar("encode", total, " items") as bar:
        while not all(writer.is_ready() for writer in writers):
            _report(tasks)
            bar.update(total - _items_left(writers) - bar.n)
            if tasks.running:
                last_running = time.monotonic()
            elif time.monotonic() - last_running > tasks.visible_seconds:
                break
            time.sleep(POLL_SECONDS)
    _report(tasks)
    encoded, seconds = total - _items_left(writers), time.monotonic() - started
    print(f"{encoded:,} items in {seconds:,.0f} s ({encoded / seconds:,.0f}/s)", flush=True)


def _report(tasks: Tasks) -> None:
    for line in tasks.ended():
        print(line, flush=True)


def _items_left(writers: list[StoreWriter]) -> int:
    return sum(writer.num_items(writer.missing()) for writer in writers)


def _missing_line(writer: StoreWriter) -> str:
    numbers = writer.missing()
    listed = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"{writer.name}: {len(numbers)} of {writer.num_shards} shards missing: {listed}"
