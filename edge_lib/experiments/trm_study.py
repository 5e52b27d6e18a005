"""Sweeps of question answerers compared: a line a point, and differences question by question."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from edge_lib.experiments.decoder_timing import step_seconds
from edge_lib.runs.sweep import Point, collect


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


def step_times(points: Sequence[Point]) -> pd.DataFrame:
    """Seconds that a training step of each point's decoder takes, measured here and now: columns
    point and seconds.step. Points may share a decoder.
    """
    names = [point.folder.name for point in points]
    decoders = [next(iter(point.config.qa.arms.items())) for point in points]
    keys = [f"{arm} {decoder.model_dump_json(exclude={'lr'})}" for arm, decoder in decoders]
    different = dict(zip(keys, decoders, strict=True))
    took = dict(zip(different, step_seconds([*different.values()]), strict=True))
    return pd.DataFrame({"point": names, "seconds.step": [took[key] for key in keys]})


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
    groups (rows of the table,) and seeds as low and high; smallest and largest, of single seeds;
    questions.
    """
    records, named = [], answers[answers.grid.isin([ours, *rivals])]
    for name, kinds in sets.items():
        asked = named[named.kind.isin(kinds)]
        right = asked.pivot(index="row", columns=["grid", "seed"], values="em")
        for rival in rivals:
            each = right[ours] - right[rival]  # (questions, seeds)
            if each.isna().any(axis=None):
                raise ValueError(f"{ours} and {rival}: not the same questions and seeds")
            seeds = each.mean()
            interval = _interval(each.to_numpy(), groups[each.index], resamples)
            found = seeds.mean(), *interval, seeds.min(), seeds.max(), len(each)
            records.append((name, rival, *found))
    columns = ["set", "rival", "difference", "low", "high", "smallest", "largest", "questions"]
    return pd.DataFrame(records, columns=columns)


def _interval(values: np.ndarray, groups: np.ndarray, resamples: int) -> tuple[float, float]:
    """95% percentile interval of the mean of (N, seeds), drawing groups (N,) and seeds anew.

    Few seeds tell little of how others would fall: with three, take it for too narrow.
    """
    rng = np.random.default_rng(0)
    names, member = np.unique(groups, return_inverse=True)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    weights = times[:, member]  # (resamples, N)
    means = weights @ values / weights.sum(1, keepdims=True)  # (resamples, seeds)
    drawn = rng.integers(values.shape[1], size=means.shape)
    low, high = np.quantile(np.take_along_axis(means, drawn, 1).mean(1), [0.025, 0.975])
    return float(low), float(high)
