"""Checks of an experiment's tables and of this machine, before anything is encoded."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import torch
from accelerate.utils import is_deepspeed_available

from edge_lib.config import MODALITIES, ConfigError, ExperimentConfig, FeatureSpec, TrainConfig
from edge_lib.config.checks import train_sections
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.qa_batches import QABatches
from edge_lib.data.table import Table
from edge_lib.experiments.trimodal import fusion_splits
from edge_lib.experiments.vlm_checks import CHAT_SPLITS, check_split
from edge_lib.experiments.vlm_features import prefix_spec
from edge_lib.features.encoder import check_output
from edge_lib.features.store import store_names
from edge_lib.features.weights import resolve_model
from edge_lib.models import Aligner
from edge_lib.runs import Run
from edge_lib.runs.notebooks import aligner_folder
from edge_lib.sources import load_table
from edge_lib.sources.split_names import CONVERSATIONS, QUESTIONS, SPLITS

OpenTable = Callable[[str], Table]  # split -> its table


def check_experiment(config: ExperimentConfig, *runs: Run) -> None:
    """Raise one ConfigError with a line for each problem.

    Opens the tables of all splits, which checks files and columns, and compares the training
    batches with rows, groups, kinds and conversations. No image or clip is decoded.
    runs: those that are trained; a run that goes on needs the features that it started with.
    """
    problems = [*_config_problems(config)]
    open_table = cache(partial(load_table, config.data))  # opening looks at every file of a table
    features = partial(_check_features, config, open_table, runs)
    for check in [*_checks(config, open_table), features]:
        try:
            check()
        except ConfigError as error:
            problems += str(error).splitlines()
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def _config_problems(config: ExperimentConfig) -> Iterator[str]:
    """Problems that need no table: modalities, and GPUs of this machine."""
    if len(config.modalities) == 1:
        yield "alignment needs sections of two modalities: vision, audio or text"
    gpus = torch.cuda.device_count()
    for key, train in train_sections(config).items():
        if not gpus and train.precision == "fp16":
            yield f"{key}.precision=fp16 needs a GPU; use fp32 or bf16"
        if not gpus and train.sharding:
            yield f"{key}.sharding={train.sharding} needs GPUs; use null"
        elif train.sharding == "zero2" and not is_deepspeed_available():
            yield f"{key}.sharding=zero2 needs DeepSpeed: pip install deepspeed"
    processes = max(config.launch.num_processes, config.features.num_processes or 0)
    if 0 < gpus < processes:
        yield f"{processes} processes do not fit on the {gpus} GPUs of this machine"


def _checks(config: ExperimentConfig, open_table: OpenTable) -> Iterator[Callable[[], None]]:
    """The checks of the sections that the config has; each raises ConfigError."""
    for name, modality in config.modalities.items():
        yield partial(resolve_model, modality.encoder, modality.weights)
        yield partial(check_output, name, modality.encoder_config)
        yield from (partial(_check_column, open_table, split, name) for split in SPLITS)
    if config.qa:
        yield from (partial(_check_questions, config, open_table, split) for split in SPLITS)
    if config.vlm:
        yield from (partial(check_split, config, split) for split in CHAT_SPLITS)
    if config.modalities:
        yield partial(_check_rows, config, open_table, config.train)
        yield partial(_check_groups, config, open_table)
    if config.fusion:
        names = fusion_splits(config.data, "train")
        for split in names if config.fusion.damage else names[:1]:
            yield partial(_check_rows, config, open_table, config.fusion.train, split)


def _check_column(open_table: OpenTable, split: str, modality: str) -> None:
    table, column = open_table(split), MODALITIES[modality].column
    if not table.has(column).any():
        raise ConfigError(f"{modality}: no row of {table.name} has {column}")


def _check_rows(
    config: ExperimentConfig, open_table: OpenTable, train: TrainConfig, split: str = "train"
) -> None:
    """The rows of the split fill a batch, in whole groups for hard negatives."""
    table = open_table(split)
    items = {name: _encodable(table, name) for name in config.modalities}
    data = config.data
    options = data.missing, data.hard_negatives, 0, 1, data.captions_per_row
    _ = AlignmentBatches(table, items, train, config.seed, *options).steps_per_epoch


def _check_groups(config: ExperimentConfig, open_table: OpenTable) -> None:
    """Hard negatives need groups of rows, also where the rows do not fill a batch."""
    table = open_table("train")
    if config.data.hard_negatives and len(np.unique(table.groups)) == len(table):
        raise ConfigError(f"data.hard_negatives: {table.name} has no groups of rows")


def _check_questions(config: ExperimentConfig, open_table: OpenTable, split: str) -> None:
    table = open_table(f"{QUESTIONS}{split}")
    images = _encodable(table, "vision")
    if not len(table.questions.rows) or not images.valid.any():
        raise ConfigError(f"{table.name}: no question with an image and an answer")
    if split == "train":
        no_tokens = SimpleNamespace(encode=lambda texts: [[]] * len(texts))
        _ = QABatches(table, images, no_tokens, config.qa, config.seed).steps_per_epoch


def _check_features(config: ExperimentConfig, open_table: OpenTable, runs: tuple[Run, ...]) -> None:
    """The tables and encoders are those that the runs, and runs inside them, were trained on."""
    started = [Run(path.parent) for run in runs for path in run.folder.glob("**/features.json")]
    if started and (spec := _saved_spec(config)):
        prefix = CONVERSATIONS if config.vlm else QUESTIONS if config.qa else ""
        names = store_names(spec, *(open_table(prefix + s) for s in SPLITS[:2]))
        for run in started:
            run.check_unchanged("features", names)


def _saved_spec(config: ExperimentConfig) -> FeatureSpec | None:
    """What a run that has started encodes; None if its aligner is gone, and is trained again."""
    if config.modalities:
        return config.feature_spec
    folder = aligner_folder(config.aligner)
    if not (folder / "aligner.json").exists():
        return None
    if config.vlm:
        return prefix_spec(config, folder)
    aligner = Aligner.untrained(folder)
    return aligner.feature_spec(config.features, config.data.cache_dir, ["vision"])


def _encodable(table: Table, modality: str) -> SimpleNamespace:
    """In place of features: `valid`, which items exist, as far as is known before decoding."""
    return SimpleNamespace(valid=table.has(MODALITIES[modality].column)[table.item_rows(modality)])
