"""Sweeps of question answerers compared: a line a point, and differences question by question."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from edge_lib.evaluate import bootstrap_interval
from edge_lib.sweep import Point, collect


def point_table(points: Sequence[Point]) -> pd.DataFrame:
    """A line for each finished point: its grid, the keys it sets, and its metrics, whose names lose
    the decoder's (qa.trm.em -> em, flops.plain -> flops), so that all have the same columns.
    """
    table = collect(points)
    names = table.metric.str.replace(r"^qa\.(?:trm|plain)\.|\.(?:trm|plain)$", "", regex=True)
    keys = ["grid", "point"]  # grids may share a point
    about = table.drop(columns=["metric", "value"]).drop_duplicates(keys)
    metrics = table.assign(metric=names).pivot(index=keys, columns="metric", values="value")
    return about.merge(metrics, on=keys)


def answers_of(points: Sequence[Point]) -> pd.DataFrame:
    """The answers of all finished points: grid, seed, row, kind, answer, reference, em, f1."""
    parts = []
    for point in points:
        if point.state == "done":
            (arm,) = point.config.qa.arms
            answers = pd.read_csv(point.folder / arm / "answers.csv", keep_default_na=False)
            parts.append(answers.assign(grid=point.grid, seed=point.config.seed))
    return pd.concat(parts, ignore_index=True)


def paired_differences(
    answers: pd.DataFrame,
    ours: str,
    rivals: Sequence[str],
    sets: dict[str, Sequence[str]],
    groups: np.ndarray,
    resamples: int,
) -> pd.DataFrame:
    """How much more often `ours` is right than each rival (grids of `answers_of`) on the same
    questions, over each of `sets` (name -> kinds).

    Columns: set, rival; difference, of means over seeds, with its 95% bootstrap interval over
    groups (rows of the table,) as low and high; smallest and largest, of single seeds; questions.
    """
    records = []
    for name, kinds in sets.items():
        asked = answers[answers.kind.isin(kinds)]
        right = asked.pivot(index="row", columns=["grid", "seed"], values="em")
        for rival in rivals:
            each = right[ours] - right[rival]  # (questions, seeds)
            if each.isna().any(axis=None):
                raise ValueError(f"{ours} and {rival}: not the same questions and seeds")
            mean, seeds = each.mean(axis=1), each.mean()
            interval = bootstrap_interval(mean.to_numpy(), groups[mean.index], resamples)
            found = mean.mean(), *interval, seeds.min(), seeds.max(), len(mean)
            records.append((name, rival, *found))
    columns = ["set", "rival", "difference", "low", "high", "smallest", "largest", "questions"]
    return pd.DataFrame(records, columns=columns)
