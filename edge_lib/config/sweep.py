"""A grid of experiments."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edge_lib.config.base import Count, Positive, RepoPath, Section


class SweepConfig(Section):
    """One notebook, run for each point of the grids and each seed."""

    notebook: RepoPath = Path("notebooks/align_point.ipynb")
    grids: dict[str, dict[str, list[Any]] | None] = Field(
        description="name -> {dotted key: its values}, their product; null takes a grid away"
    )
    seeds: list[Count] = [0, 1, 2]
    folder: RepoPath | None = Field(None, description="of the points; runs/sweep-<notebook>-<name>")
    workers: Positive = Field(2, description="points at once")
    threads: Positive = Field(1, description="of each point")
    gpus: Count = Field(0, description="of each point; local points share the first ones")
    retry: bool = Field(False, description="run failed points again")
    cluster: Literal["local", "slurm"] = "local"
    slurm: dict[str, Any] = Field({}, description="submitit's parameters, e.g. slurm_partition")
