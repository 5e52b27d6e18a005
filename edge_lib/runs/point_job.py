"""One point of a sweep, as a process of this machine or a job of Slurm."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from edge_lib.runs.notebooks import execute_notebook, executed_notebook
from edge_lib.runs.points import Point


@dataclass(frozen=True)
class PointJob:
    """Executes the point's notebook; called again, it goes on from the newest checkpoint."""

    point: Point
    notebook: Path
    threads: int
    devices: str | None = None  # CUDA_VISIBLE_DEVICES; None: as Slurm sets it

    def __call__(self) -> None:
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if self.devices is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.devices
        terminated = []

        def end(*_) -> None:
            terminated.append(True)
            # Slurm also terminates what it preempts, which goes on until it is requeued
            if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
                raise SystemExit(128 + signal.SIGTERM)

        signal.signal(signal.SIGTERM, end)
        try:
            execute_notebook(self.notebook, self.point.folder, self.point.config)
        except BaseException:
            if terminated:  # with all its processes, so the error is none of the notebook's
                executed_notebook(self.point.folder).unlink(missing_ok=True)
            raise
