"""A grid of experiments."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from edge_lib.config.base import Count, NonEmpty, Positive, RepoPath, Section


class SweepConfig(Section):
    """One notebook, run for each point of the grids and each seed."""

    notebook: RepoPath = Path("notebooks/align_point.ipynb")
    grids: dict[str, dict[str, Annotated[list[Any], NonEmpty]] | None] = Field(
        description="name -> {dotted key: values}, whose product are the points; null: no grid"
    )
    seeds: Annotated[list[Count], NonEmpty] = [0, 1, 2]
    folder: RepoPath | None = Field(None, description="runs/sweep-<notebook>-<name> if null")
    workers: Positive = Field(2, description="points that run at once")
    threads: Positive = Field(1, description="CPU threads of each point")
    gpus: Count = Field(0, description="of each point")
    retry: bool = Field(False, description="run failed points again")
    cluster: Literal["local", "slurm"] = "local"
    slurm: dict[str, Any] = Field({}, description="submitit's parameters, e.g. slurm_partition")

    @model_validator(mode="after")
    def _grids_leave_the_seed(self):
        if names := [name for name, grid in self.grids.items() if "seed" in (grid or ())]:
            raise ValueError(f"grids.{names[0]}.seed: set sweep.seeds, which every grid uses")
        return self
