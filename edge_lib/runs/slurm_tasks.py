"""Copies of a function as tasks of Slurm arrays, which outlive the program that submits them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from edge_lib.config import ConfigError
from edge_lib.runs.job_watch import JobWatch
from edge_lib.runs.lock import hold_lock
from edge_lib.runs.slurm import Job, Key, gpu_options, max_array_size


class SlurmTasks(AbstractContextManager):
    """`count` tasks, or those of an earlier start that have not ended.

    At the end of its context they are cancelled, as those that still wait have nothing to do. After
    an error of this program they go on.
    """

    visible_seconds = 30

    def __init__(self, function: Callable, count: int, folder: Path, options: Mapping[str, Any]):
        self.watch = JobWatch(folder)
        with self.watch, hold_lock(folder / "submit.lock"):  # of two drivers one submits
            earlier = self.watch.find_earlier().items()
            self.watch.follow({key: job for key, (job, _) in earlier if not job.completing})
            if not self.running:
                self._submit([function] * count, options)

    @property
    def running(self) -> dict[Key, Job]:
        return self.watch.running

    def _submit(self, functions: list[Callable], options: Mapping[str, Any]) -> None:
        """As several arrays if one is too large."""
        size = max_array_size()
        try:
            options = {"timeout_min": 24 * 60, **gpu_options(1, options), **options}
            for start in range(0, len(functions), size):
                part = functions[start : start + size]
                self.watch.submit(part, "extract", options, len(part))
        except ConfigError as error:
            raise ConfigError(f"features.slurm: {error}") from None

    def ended(self) -> Iterator[str]:
        """A line for each task that has failed since the last call."""
        for _, end in self.watch.ended():
            if not end.job or end.job.state != "COMPLETED":
                yield f"task {end.last.number} ended: {end.cause()}"

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind:
            self.watch.__exit__(kind, *error)
        else:
            self.watch.cancel()
