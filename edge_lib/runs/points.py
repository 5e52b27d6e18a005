"""The points of a sweep: one config for each grid value and seed, and the metrics they give.

A sweep is a config with a `sweep` section. Each point is that config without the section and with
some keys set; its run folder is <sweep folder>/<digest>, so sweeps with the same folder share
points.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from edge_lib.config import ConfigError, ExperimentConfig, from_root, load_config
from edge_lib.config.overrides import Overrides, parse_overrides
from edge_lib.runs.files import read_json
from edge_lib.runs.notebooks import run_state


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its grid's name, the keys it sets, its config and its folder."""

    grid: str
    settings: dict[str, Any]  # dotted key -> value, including the seed
    config: ExperimentConfig
    folder: Path

    @property
    def state(self) -> str:
        """`done`, `failed` or `pending`."""
        return run_state(self.folder)

    def metrics(self) -> dict[str, float]:
        return read_json(self.folder / "metrics.json")


def make_points(path: str | Path, overrides: Overrides = "") -> list[Point]:
    """All points of a sweep's config, grid by grid; equal ones of a grid once. Raises ConfigError,
    also for a grid's keys.
    """
    config = load_config(path, overrides, "sweep")
    if not config.sweep.notebook.is_file():
        raise ConfigError(f"{path}: sweep.notebook: no file {config.sweep.notebook}")
    folder = sweep_folder(config)
    base = parse_overrides(overrides)
    points = {}
    for name, grid in config.sweep.grids.items():
        if grid is None:
            continue
        for values in product(*grid.values(), config.sweep.seeds):
            settings = dict(zip([*grid, "seed"], values, strict=True))
            point = _load_point(path, name, [*base, {**settings, "sweep": None}])
            run = folder / point.digest()
            points.setdefault((name, run), Point(name, settings, point, run))
    return [*points.values()]


def _load_point(path: str | Path, grid: str, overrides: list) -> ExperimentConfig:
    """ConfigError names the grid, for values that no point can have."""
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        lines = [line.removeprefix("overrides: ") for line in str(error).splitlines()]
        raise ConfigError("\n".join(f"{path}: sweep.grids.{grid}: {x}" for x in lines)) from None
    if config.launch.num_nodes > 1 or config.launch.cluster != "local":
        raise ConfigError(
            f"{path}: launch.num_nodes={config.launch.num_nodes} launch.cluster="
            f"{config.launch.cluster}: a point of a sweep runs on one node; to run points as jobs "
            "of Slurm, set sweep.cluster=slurm"
        )
    return config


def sweep_folder(config: ExperimentConfig) -> Path:
    """Where a sweep's points lie."""
    name = f"sweep-{config.sweep.notebook.stem}-{config.name}"
    return config.sweep.folder or from_root(f"runs/{name}")


def collect(points: list[Point]) -> pd.DataFrame:
    """The metrics of finished points, one row each: grid, its dotted keys, point, metric, value."""
    records = [
        {"grid": point.grid, **point.settings, "point": point.folder.name}
        | {"metric": metric, "value": value}
        for point in points
        if point.state == "done"
        for metric, value in point.metrics().items()
    ]
    keys = dict.fromkeys(key for point in points for key in point.settings)
    return pd.DataFrame(records, columns=["grid", *keys, "point", "metric", "value"])


def by_dim(table: pd.DataFrame, pattern: str) -> pd.DataFrame:
    """The metrics `<pattern>.dim<d>` of a collected table, one row for each point and dim: grid,
    keys, point, dim and the mean over all matching metrics.
    """
    dims = table["metric"].str.extract(rf"^(?:{pattern})\.dim(\d+)$")[0]
    matches = table.assign(dim=dims.astype(float))[dims.notna()].astype({"dim": int})
    index = ["grid", "point", "dim"]  # grids may share a point
    settings = matches.drop(columns=["metric", "value"]).drop_duplicates(index)
    return settings.merge(matches.groupby(index, as_index=False)["value"].mean(), on=index)
