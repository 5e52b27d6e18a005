"""A grid of experiments."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from edge_lib.config.base import Count, NonEmpty, Positive, RepoPath, Section
from edge_lib.config.slurm import SlurmOptions

Grid = dict[str, Annotated[list[Any], NonEmpty]]


def _flat(grid: Any) -> Any:
    """Sections of a grid, as overrides such as `sweep.grids.a.train.lr=[0.1]` make them, as dotted
    keys.
    """
    if not isinstance(grid, dict):
        return grid
    flat = {}
    for key, values in grid.items():
        inner = _flat(values) if isinstance(values, dict) else {}
        flat |= {f"{key}.{name}": x for name, x in inner.items()} or {key: values}
    return flat


class SweepConfig(Section):
    """One notebook, run for each point of the grids and each seed."""

    notebook: RepoPath = Path("notebooks/align_point.ipynb")
    grids: dict[str, Annotated[Grid, BeforeValidator(_flat)] | None] = Field(
        description="name -> {dotted key: values}, whose product are the points; null: no grid"
    )
    seeds: Annotated[list[Count], NonEmpty] = [0, 1, 2]
    folder: RepoPath | None = Field(None, description="runs/sweep-<notebook>-<name> if null")
    workers: Positive = Field(2, description="points that run at once")
    threads: Positive = Field(1, description="CPU threads of each point")
    gpus: Count = Field(0, description="of each point")
    retry: bool = Field(False, description="run failed points again")
    cluster: Literal["local", "slurm"] = "local"
    slurm: SlurmOptions = {}

    @model_validator(mode="after")
    def _grids_leave_the_seed(self):
        if names := [name for name, grid in self.grids.items() if "seed" in (grid or ())]:
            raise ValueError(f"grids.{names[0]}.seed: set sweep.seeds, which every grid uses")
        return self
