"""trm_study: decoders compared over sweeps, by point and question by question."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from edge_lib.experiments.decoder_timing import step_seconds
from edge_lib.experiments.trm_qa import read_answers
from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.runs.points import Point, collect


def point_table(points: Sequence[Point]) -> pd.DataFrame:
    """A row for each finished point: its grid, the keys it sets, and its metrics, without the name
    of the decoder (qa.trm.em -> em, flops.plain -> flops), so that all have the same columns.
    """
    table = collect(points)
    names = table.metric.str.replace(r"^qa\.(?:trm|plain)\.|\.(?:trm|plain)$", "", regex=True)
    keys = ["grid", "point"]  # grids may share a point
    settings = table.drop(columns=["metric", "value"]).drop_duplicates(keys)
    metrics = table.assign(metric=names).pivot(index=keys, columns="metric", values="value")
    return settings.merge(metrics, on=keys)


def step_times(points: Sequence[Point]) -> pd.DataFrame:
    """Seconds of a training step of each point's decoder, measured now: columns point and
    seconds.step. Points may share a decoder.
    """
    names = [point.folder.name for point in points]
    decoders = [next(iter(point.config.qa.decoders.items())) for point in points]
    keys = [f"{name} {config.model_dump_json(exclude={'lr'})}" for name, config in decoders]
    distinct = dict(zip(keys, decoders, strict=True))
    times = dict(zip(distinct, step_seconds([*distinct.values()]), strict=True))
    return pd.DataFrame({"point": names, "seconds.step": [times[key] for key in keys]})


def answers_of(points: Sequence[Point]) -> pd.DataFrame:
    """The answers of all finished points: grid, seed, row, kind, answer, reference, em, f1."""
    parts = []
    for point in points:
        if point.state == "done":
            (decoder,) = point.config.qa.decoders
            answers = read_answers(point.folder / decoder)
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
    """Difference in exact match between `ours` and each rival (grids of `answers_of`) on the same
    questions, over each of `sets` (name -> kinds).

    groups: (N,) of the table's rows. resamples: of the bootstrap.
    Columns: set, rival; difference: of the means over seeds; low, high: its 95% bootstrap interval
    over groups and seeds; smallest, largest: of single seeds; questions: their number.
    """
    records, compared = [], answers[answers.grid.isin([ours, *rivals])]
    for name, kinds in sets.items():
        rows = compared[compared.kind.isin(kinds)]
        em = rows.pivot(index="row", columns=["grid", "seed"], values="em")
        for rival in rivals:
            differences = em[ours] - em[rival]  # (questions, seeds)
            if differences.isna().any(axis=None):
                raise ValueError(f"{ours} and {rival} have different questions or seeds")
            seeds = differences.mean()
            interval = bootstrap_interval(
                differences.to_numpy(), groups[differences.index], resamples
            )
            extremes = seeds.min(), seeds.max()
            records.append((name, rival, seeds.mean(), *interval, *extremes, len(differences)))
    columns = ["set", "rival", "difference", "low", "high", "smallest", "largest", "questions"]
    return pd.DataFrame(records, columns=columns)
