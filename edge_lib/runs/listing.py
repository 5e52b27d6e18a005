"""Runs as text for a terminal: a block for each notebook, a line for each run."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from edge_lib.runs.comparison import HASHED, HEADLINES, list_runs

NO_RUN = "other folders"
MAX_KEYS = 6  # in a line


def format_runs(folders: Sequence[Path]) -> str:
    """A block for each notebook and each sweep, whose runs are compared with one another."""
    ordered = sorted(folders, key=lambda path: (_family(path) == NO_RUN, _family(path)))
    blocks = [
        f"{family}\n{_format(list_runs([*paths]))}" for family, paths in groupby(ordered, _family)
    ]
    return "\n\n".join(blocks) or "no runs"


def _family(folder: Path) -> str:
    """The notebook that makes runs of this name, or the folder of a sweep."""
    if not (folder / "config.yaml").exists():
        return NO_RUN
    return folder.name.split("-")[0] if HASHED.fullmatch(folder.name) else folder.parent.name


def _format(table: pd.DataFrame) -> str:
    """The keys of the config that differ are in the last column: they may be many."""
    metrics = [name for name in table.columns if HEADLINES.fullmatch(name)]
    keys = [name for name in table.columns[3:] if name not in metrics]
    shown = table[[*table.columns[:3], *metrics]].dropna(axis="columns", how="all")
    text = shown.to_string(index=False, na_rep="", float_format="{:.3f}".format)
    ends = ["differs in" if keys else "", *_differences(table[keys])]
    lines = zip(text.splitlines(), ends, strict=True)
    return "\n".join(f"  {line}  {end}".rstrip() for line, end in lines)


def _differences(table: pd.DataFrame) -> list[str]:
    """The keys that a config has, as overrides."""
    lines = []
    for row in table.itertuples(index=False, name=None):
        pairs = zip(table.columns, row, strict=True)
        own = [f"{key}={value}" for key, value in pairs if not _is_null(value)]
        rest = [f"... ({len(own) - MAX_KEYS} more)"] if len(own) > MAX_KEYS else []
        lines.append(" ".join(own[:MAX_KEYS] + rest))
    return lines


def _is_null(value: object) -> bool:
    return value is None or value != value  # NaN
