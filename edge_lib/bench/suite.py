"""Notebook 09: several benchmarks, each in a process of its own, whose results are kept."""

import inspect
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pandas as pd

from edge_lib.bench.comparisons import LIMIT, VARIANT, Comparison, comparisons
from edge_lib.bench.tools import measure_apart
from edge_lib.config import BenchConfig, ConfigError
from edge_lib.config.base import did_you_mean
from edge_lib.runs.files import read_json, write_json

Numbers = dict[str, float | str]


def check_arguments(config: BenchConfig) -> None:
    """ConfigError for an argument that a benchmark does not take."""
    for name, arguments in config.chosen.items():
        function = getattr(import_module(f"edge_lib.bench.{name}"), name)
        allowed = [*inspect.signature(function).parameters]
        for key in arguments.keys() - {*allowed}:
            raise ConfigError(
                f"bench.benchmarks.{name}.{key}: no such argument; "
                f"{did_you_mean(key, allowed)}allowed: {', '.join(allowed) or 'none'}"
            )


def run_benchmarks(config: BenchConfig, folder: Path) -> Iterator[tuple[str, Numbers]]:
    """Name and numbers of each benchmark, which are also written to NAME.json; those that were
    measured before are read from there. One that failed has an `error`; `load` is that of the
    minute before.
    """
    folder.mkdir(exist_ok=True)
    for name, arguments in config.chosen.items():
        path = folder / f"{name}.json"
        numbers = read_json(path) if path.exists() else {"error": "not measured"}
        if "error" in numbers:
            load = os.getloadavg()[0]
            measured = measure_apart(name, name, timeout=config.timeout, **arguments)
            write_json(path, numbers := measured | {"load": load})
        yield name, numbers


def compared(results: dict[str, Numbers]) -> pd.DataFrame:
    """The comparisons of all benchmarks. Columns: benchmark, those of `Comparison`, and kind:
    rival, variant (of ours) or limit.
    """
    rows = [(name, *row) for name, numbers in results.items() for row in comparisons(numbers)]
    table = pd.DataFrame(rows, columns=["benchmark", *Comparison._fields])
    variant = table["rival"].str.startswith(VARIANT).map({True: "variant", False: "rival"})
    return table.assign(kind=variant.mask(table["rival"] == LIMIT, "limit"))
