"""The experiment of `make align`, until R@1 on val reaches a goal, beside the same written with
sentence-transformers' trainer.

Ours stores features once and trains on them. The rival keeps none: it runs the frozen encoders in
every step and every evaluation. Encoders, heads, batch size, whole groups of variants in a batch,
optimizer, schedule and the evaluated recall are the same; its loss is that of its library, with a
fixed scale, and no row loses its caption. Times count from opened tables on.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from edge_lib.bench.tools import ratios
from edge_lib.config import ExperimentConfig, load_config
from edge_lib.experiments.align import AlignmentTask, prepare_alignment
from edge_lib.features.extract import write_features
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.training.fit import fit

CONFIG, RIVAL = "params/tiny/align.yaml", "sentence_transformers"
Check = Callable[[float], None]


class GoalReached(Exception):
    """R@1 is high enough: training ends."""


def align(goal: float = 0.9, overrides: str = "") -> dict[str, float]:
    """Seconds until the mean R@1 of both directions reaches `goal`, or until the last step; and the
    highest R@1. overrides: of CONFIG.
    """
    from edge_lib.bench.align_rival import train_rival

    times, recalls = {}, {}
    with TemporaryDirectory() as folder:
        config = load_config(CONFIG, f"data.cache_dir={folder} {overrides}")
        for split in ("train", "val"):  # generated before time counts
            load_table(config.data, split)
        for name, train in (("ours", train_ours), (RIVAL, train_rival)):
            start = perf_counter()
            recalls[f"r1.{name}"] = _until(goal, train, config, Path(folder) / name)
            times[name] = [perf_counter() - start]
    return ratios("seconds", times) | recalls


def _until(goal: float, train: Callable, config: ExperimentConfig, folder: Path) -> float:
    """The highest R@1 of a training, which ends when it reaches `goal`."""
    best, start = -math.inf, perf_counter()

    def check(recall: float) -> None:
        nonlocal best
        best = max(best, recall)
        print(f"{folder.name}: R@1 {recall:.3f} after {perf_counter() - start:.0f} s", flush=True)
        if recall >= goal:
            raise GoalReached

    with suppress(GoalReached):
        train(config, folder, check)
    return best


def train_ours(config: ExperimentConfig, folder: Path, check: Check) -> None:
    """Encode both splits, then train as notebook 01 does."""
    write_features(config.data, config.feature_spec, ["train", "val"])
    run = Run.create(config, "align", folder)
    task, batches, evaluate = prepare_alignment(config, run)

    def evaluate_and_check(trained: AlignmentTask) -> dict[str, float]:
        metrics = evaluate(trained)
        check(metrics["score"])
        return metrics

    fit(task, batches, config.train, run, evaluate_and_check, config.seed)
