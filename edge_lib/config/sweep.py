"""A grid of experiments."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edge_lib.config.base import Count, Positive, RepoPath, Section


class SweepConfig(Section):
    """One notebook, run for each point of the grids and each seed."""

    notebook: RepoPath = Path("notebooks/align_point.ipynb")
    grids: dict[str, dict[str, list[Any]] | None] = Field(
        description="name -> {dotted key: values}, whose product are the points; null: no grid"
    )
    seeds: list[Count] = [0, 1, 2]
    folder: RepoPath | None = Field(None, description="runs/sweep-<notebook>-<name> if null")
    workers: Positive = Field(2, description="points that run at once")
    threads: Positive = Field(1, description="CPU threads of each point")
    gpus: Count = Field(0, description="of each point")
    retry: bool = Field(False, description="run failed points again")
    cluster: Literal["local", "slurm"] = "local"
    slurm: dict[str, Any] = Field({}, description="submitit's parameters, e.g. slurm_partition")
