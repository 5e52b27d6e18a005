"""The alignment experiment as functions that `launch` can run and a notebook can call."""

import os
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed

from edge_lib.config import ConfigError, ExperimentConfig
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.table import Table
from edge_lib.features.extract import extract_features
from edge_lib.features.online import open_features
from edge_lib.features.store import FeatureStore, open_stores, store_folder
from edge_lib.metrics.recall import pair_rows, recall_metrics, recall_table
from edge_lib.models import Aligner
from edge_lib.runs import Run
from edge_lib.sources import load_table, splits
from edge_lib.sources.scenes.probes import swap_scores
from edge_lib.training.device import local_device
from edge_lib.training.fit import fit


def train_aligner(config: ExperimentConfig, run_folder: Path) -> dict[str, float]:
    """Train the heads on the train table, choose the best by the val table's mean R@1."""
    if len(config.modalities) < 2:
        raise ConfigError("an alignment needs two modalities: give two of vision, audio and text")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    train, val = load_table(config.data, "train"), load_table(config.data, "val")
    features = open_features(config, train)
    batches = AlignmentBatches(train, features, config, rank, world_size)
    stores = open_stores(config, val)
    run = Run(run_folder)
    used = [store_folder(config, name, table) for table in (train, val) for name in stores]
    run.ensure_unchanged("features", [folder.name for folder in used])
    set_seed(config.seed)
    aligner = Aligner(config, {name: store.widths for name, store in stores.items()})

    def evaluate(aligner: Aligner) -> dict[str, float]:
        embeddings, rows = embed_table(aligner, val, stores)
        dim = max(config.loss.dims)
        recall = recall_table(embeddings, rows, [dim], [1], val.groups, pairs=config.pairs)
        metrics = {f"val.{r.query}_to_{r.gallery}.r1": float(r.recall) for r in recall.itertuples()}
        return {**metrics, "score": float(recall.recall.mean())}

    return fit(aligner, batches, config.train, run, evaluate, config.seed)


def measure_aligner(config: ExperimentConfig, run_folder: Path) -> dict[str, float]:
    """Encode what is missing, train, and test: an experiment without its pictures, for sweeps."""
    extract_features(config)
    metrics = train_aligner(config, run_folder)
    width = max(config.loss.dims)
    dims = [dim for dim in config.evaluate.dims or config.loss.dims if dim <= width]
    aligner = Aligner.from_pretrained(run_folder / "checkpoints/best").to(local_device())
    test = load_table(config.data, "test")
    embeddings, rows = embed_table(aligner, test, open_stores(config, test))
    recall = recall_table(
        embeddings, rows, dims, config.evaluate.ks, test.groups, pairs=config.pairs
    )
    metrics |= recall_metrics(recall, "test")
    if "swap" in splits(config.data) and {"vision", "text"} <= config.modalities.keys():
        swap = load_table(config.data, "swap")
        pairs, _ = pair_rows(*embed_table(aligner, swap, open_stores(config, swap)))
        scores = swap_scores(pairs["vision"], pairs["text"], dims)
        metrics |= {f"swap.{row.score}.dim{row.dim}": row.value for row in scores.itertuples()}
    for name, head in aligner.heads.items():
        metrics[f"parameters.{name}"] = sum(p.numel() for p in head.parameters())
    return metrics


def embed_split(
    config: ExperimentConfig, folder: Path, table: Table
) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """`embed_table` by the aligner saved in `folder`, from the table's feature stores."""
    aligner = Aligner.from_pretrained(folder).to(local_device())
    return embed_table(aligner, table, open_stores(config, table))


@torch.no_grad()
def embed_table(
    aligner: Aligner, table: Table, stores: dict[str, FeatureStore], batch_size: int = 1024
) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Embeddings (N_m, D) of all items of a table on the CPU, and the row (N_m,) of each."""
    device = aligner.logit_scale.log_scale.device
    embeddings, rows = {}, {}
    for name, store in stores.items():
        items = np.flatnonzero(store.valid)
        parts = np.split(items, range(batch_size, len(items), batch_size))
        head = aligner.heads[name]
        embedded = [head(store.gather(part).to(device))[1].float().cpu() for part in parts]
        embeddings[name] = torch.cat(embedded)
        rows[name] = table.item_rows(name)[items]
    return embeddings, rows
