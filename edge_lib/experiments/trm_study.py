"""trm_study: decoders compared over sweeps, by point and question by question."""

from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from edge_lib.config import DecoderConfig
from edge_lib.experiments.trm_qa import read_answers
from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.nn.decoders import build_decoder
from edge_lib.runs.points import Point, collect
from edge_lib.training.device import local_device
from edge_lib.training.timing import seconds

IMAGES, VECTORS, WIDTH = 32, 9, 256
QUESTIONS, QUESTION, ANSWER, VOCABULARY = 64, 14, 3, 512
ROUNDS = 7


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


def step_seconds(decoders: Sequence[tuple[str, DecoderConfig]]) -> list[float]:
    """Median seconds of a training step, forward and backward, of each (decoder name, config).

    Measured in turn, on one thread, so that a busy machine slows all alike. A step has 64 questions
    of 14 tokens about 32 images of 9 vectors, with answers of 3 tokens.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps = [_training_step(*decoder) for decoder in decoders]
    for step in steps:
        step()
    times = [[seconds(step) for step in steps] for _ in range(ROUNDS)]
    torch.set_num_threads(threads)
    return [median(column) for column in zip(*times, strict=True)]


def _training_step(name: str, config: DecoderConfig) -> Callable[[], None]:
    torch.manual_seed(0)
    device = local_device()
    decoder = build_decoder(name, config, WIDTH, VOCABULARY).to(device)
    prefix = torch.randn(IMAGES, VECTORS, WIDTH, device=device)
    mask = torch.ones(IMAGES, VECTORS, dtype=torch.bool, device=device)
    question = torch.randint(4, VOCABULARY, (QUESTIONS, QUESTION), device=device)
    answer = torch.randint(4, VOCABULARY, (QUESTIONS, ANSWER), device=device)

    def step() -> None:
        context = decoder.read_context(prefix, mask, question)
        states = decoder.supervised(decoder.states_after(context, answer))
        losses = [F.cross_entropy(decoder.head(s).flatten(0, 1), answer.flatten()) for s in states]
        torch.stack(losses).mean().backward()

    return step
