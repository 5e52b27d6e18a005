"""The fusion experiment as functions that `launch` can run and a notebook can call.

Fusions are trained on an aligner's heads as they are, against the target's embedding; on damaged
data where the source has it, so that a fusion learns whom to believe.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed

from edge_lib.config import ExperimentConfig
from edge_lib.data.alignment_batches import AlignmentBatches
from edge_lib.data.table import Table
from edge_lib.features.online import open_features
from edge_lib.features.store import FeatureStore, open_store
from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.metrics.recall import retrieval_ranks
from edge_lib.models import Aligner, Fuser
from edge_lib.runs import Run
from edge_lib.sources import load_table, splits
from edge_lib.sources.splits import DEGRADED
from edge_lib.training.fit import fit


def fusion_table(config: ExperimentConfig, split: str) -> Table:
    """The split that fusions are trained and judged on: the damaged one, if there is one."""
    damaged = f"{DEGRADED}{split}"
    return load_table(config.data, damaged if damaged in splits(config.data) else split)


def train_fusions(
    config: ExperimentConfig, aligner_folder: Path, folders: dict[int, Path]
) -> dict[str, float]:
    """Train every strategy of `config.fusion` once for each seed, in the run folder of that seed.

    Kept is the state with the best mean R@1 on val. Returns the seconds of training.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    train, val = fusion_table(config, "train"), fusion_table(config, "val")
    aligner, features = Aligner.from_pretrained(aligner_folder), open_features(config, train)
    names = [*config.fusion.modalities, config.fusion.target]
    stores = {name: open_store(config, name, val) for name in names}

    def evaluate(fuser: Fuser) -> dict[str, float]:
        recall = fused_recall(fuser, val, stores, [tuple(config.fusion.modalities)])
        scores = {f"val.{r.strategy}.r1": r.recall for r in recall.itertuples()}
        return {**scores, "score": float(recall["recall"].mean())}

    seconds = 0
    for seed, folder in folders.items():
        seeded = config.model_copy(update={"train": config.fusion.train, "seed": seed})
        batches = AlignmentBatches(train, features, seeded, rank, world_size)
        set_seed(seed)
        fuser = Fuser(aligner, config)
        result = fit(fuser, batches, config.fusion.train, Run(folder), evaluate, seed)
        seconds += result["seconds.train"]
    return {"seconds.fusion": seconds}


@torch.no_grad()
def fused_recall(
    fuser: Fuser,
    table: Table,
    stores: dict[str, FeatureStore],
    inputs: list[tuple[str, ...]],
    bootstrap: int = 0,
) -> pd.DataFrame:
    """R@1 of the target, found by each fusion from each of the `inputs` (subsets of modalities).

    Also "heads": the aligner's own embedding of one modality, without any fusion. Rows that lack
    an item are left out. Columns: strategy, inputs, recall, low, high, rows.
    """
    sequences, target, rows = embed_rows(fuser, table, stores)
    records = []
    for names in inputs:
        present = {name: torch.full((len(rows),), name in names) for name in sequences}
        found = {
            strategy: fusion(sequences, present).embedding.float().cpu()
            for strategy, fusion in fuser.fusions.items()
        }
        if len(names) == 1:
            found["heads"] = sequences[names[0]].mean(1).float().cpu()
        for strategy, queries in found.items():
            hits = retrieval_ranks(queries, target) < 1
            low, high = bootstrap_interval(hits, table.groups[rows], bootstrap)
            inputs_name = " + ".join(names)
            records.append((strategy, inputs_name, float(hits.mean()), low, high, len(rows)))
    return pd.DataFrame(records, columns=["strategy", "inputs", "recall", "low", "high", "rows"])


@torch.no_grad()
def embed_rows(
    fuser: Fuser, table: Table, stores: dict[str, FeatureStore], batch_size: int = 1024
) -> tuple[dict[str, torch.Tensor], torch.Tensor, np.ndarray]:
    """Of all rows that have everything: sequences {modality: (N, L, D)}, target (N, D), rows (N,).

    A row with several captions is embedded by its first.
    """
    firsts = {}
    for name in stores:
        # the store may be that of the whole split, of which a damaged one holds the first rows
        owners = table.item_rows(name)
        owners = np.where(stores[name].valid[: len(owners)], owners, -1)
        firsts[name] = dict(zip(owners[::-1], np.arange(len(owners))[::-1], strict=True))
    rows = np.array(sorted(set.intersection(*(set(first) - {-1} for first in firsts.values()))))
    device = fuser.aligner.logit_scale.log_scale.device
    parts = {name: [] for name in stores}
    for chunk in np.array_split(rows, max(1, len(rows) // batch_size)):
        for name, store in stores.items():
            items = [firsts[name][row] for row in chunk]
            parts[name].append(fuser.aligner.heads[name](store.gather(items).to(device))[0])
    sequences = {name: torch.cat(part) for name, part in parts.items()}
    target = sequences.pop(fuser.config.fusion.target).mean(1).float().cpu()
    return sequences, target, rows


@torch.no_grad()
def gate_weights(
    fuser: Fuser, table: Table, conditions: dict[str, dict[str, FeatureStore]]
) -> pd.DataFrame:
    """The gated fusion's weights by condition: columns condition, modality, row, weight."""
    gated, records = fuser.fusions["gated"], []
    for condition, stores in conditions.items():
        sequences, _, rows = embed_rows(fuser, table, stores)
        present = {name: torch.ones(len(rows), dtype=torch.bool) for name in sequences}
        weights = gated(sequences, present).weights.float().cpu()
        for name, column in zip(gated.modalities, weights.unbind(1), strict=True):
            part = {"condition": condition, "modality": name, "row": rows, "weight": column.numpy()}
            records.append(pd.DataFrame(part))
    return pd.concat(records, ignore_index=True)
