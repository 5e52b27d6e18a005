"""Scores at several dims as metrics with flat names."""

from collections.abc import Callable
from typing import Any

import pandas as pd


def metrics_by_dim(
    scores: pd.DataFrame, name: Callable[[Any], str], value: str = "value"
) -> dict[str, float]:
    """A column of a table that has a column `dim`: NAME (at the largest dim), NAME.dim64, ...

    name: that of a row, as `DataFrame.itertuples` gives it.
    """
    metrics = {}
    for row in scores.itertuples():
        metrics[f"{name(row)}.dim{row.dim}"] = float(getattr(row, value))
        if row.dim == scores.dim.max():
            metrics[name(row)] = float(getattr(row, value))
    return metrics
