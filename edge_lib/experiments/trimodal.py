"""Notebook 02: train fusions on the heads of an aligner; test them on subsets of the modalities.

The heads stay frozen; the target is another modality's embedding. Where the source has degraded
splits, fusions train on them, to learn which modality to rely on.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from edge_lib.config import DataConfig, ExperimentConfig, LossConfig
from edge_lib.data.alignment_batches import AlignmentBatches, Batch
from edge_lib.data.table import Table
from edge_lib.features.online import open_features
from edge_lib.features.store import FeatureStore, open_store
from edge_lib.metrics.recall import retrieval_ranks
from edge_lib.models import Aligner, Fuser
from edge_lib.nn.losses import build_loss
from edge_lib.runs import Run
from edge_lib.sources import load_table, splits
from edge_lib.sources.split_names import DEGRADED
from edge_lib.training.device import process_rank
from edge_lib.training.fit import fit


class FusionTask(nn.Module):
    """All fusions of a fuser, trained on the same batches, each with a loss of its own."""

    def __init__(self, fuser: Fuser, loss: LossConfig, seed: int):
        super().__init__()
        self.fuser, self.config, self.seed = fuser, fuser.config, seed
        self.losses = nn.ModuleDict({name: build_loss(loss) for name in fuser.fusions})

    def forward(self, batch: Batch) -> Tensor:
        """The loss (), summed over fusions."""
        names, target = self.config.modalities, self.config.target
        sequences = self.fuser.sequences({name: batch.features[name] for name in names})
        with torch.no_grad():
            embedding = self.fuser.aligner.heads[target](batch.features[target])[1]
        present = self._drop_modalities({name: batch.present[name] for name in names})
        usable = torch.stack([*present.values()]).any(0) & batch.present[target]
        labels = self._labels(batch) if batch.labels else None
        fused, total = self.fuser(sequences, present), 0
        for name, loss in self.losses.items():
            generator = torch.Generator().manual_seed(self.seed + batch.step)
            total += loss(fused[name].embedding, embedding, usable, generator, labels)
        return total

    def _labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of the fused rows, which all differ, and of their targets."""
        target = batch.labels[self.config.target]
        return torch.from_numpy(batch.rows).to(target), target

    def _drop_modalities(self, present: dict[str, Tensor]) -> dict[str, Tensor]:
        """In training, leave a share of the rows with one modality, so that any subset works."""
        first = next(iter(present.values()))
        single = torch.rand(first.shape, device=first.device) < self.config.modality_dropout
        kept = torch.randint(len(present), first.shape, device=first.device)
        if not self.training:
            return present
        return {
            name: exists & (~single | (kept == number))
            for number, (name, exists) in enumerate(present.items())
        }

    def save_pretrained(self, folder: Path) -> None:
        self.fuser.save_pretrained(folder)


def fusion_table(data: DataConfig, split: str) -> Table:
    """The degraded split, if the source has one, else the split itself."""
    degraded = f"{DEGRADED}{split}"
    return load_table(data, degraded if degraded in splits(data) else split)


def train_fusions(
    config: ExperimentConfig, aligner_folder: Path, folders: dict[int, Path]
) -> dict[str, float]:
    """Train every strategy of `config.fusion` once for each seed; keep the best mean R@1 on val.

    folders: seed -> its run folder. Returns the seconds of training.
    """
    train, val = fusion_table(config.data, "train"), fusion_table(config.data, "val")
    spec, fusion = config.feature_spec, config.fusion
    aligner, features = Aligner.from_pretrained(aligner_folder), open_features(spec, train)
    stores = {name: open_store(spec, name, val) for name in (*fusion.modalities, fusion.target)}

    def evaluate(task: FusionTask) -> dict[str, float]:
        recall = fused_recall(task.fuser, val, stores, [tuple(fusion.modalities)])
        scores = {f"val.{r.strategy}.r1": r.recall for r in recall.itertuples()}
        return {**scores, "score": float(recall["recall"].mean())}

    seconds, data = 0, config.data
    for seed, folder in folders.items():
        options = data.missing, data.hard_negatives, *process_rank(), data.captions_per_row
        batches = AlignmentBatches(train, features, fusion.train, seed, *options)
        set_seed(seed)
        task = FusionTask(Fuser(aligner, fusion), config.loss, seed)
        result = fit(task, batches, fusion.train, Run(folder), evaluate, seed)
        seconds += result["seconds.train"]
    return {"seconds.fusion": seconds}


@torch.no_grad()
def fused_recall(
    fuser: Fuser, table: Table, stores: dict[str, FeatureStore], inputs: list[tuple[str, ...]]
) -> pd.DataFrame:
    """R@1 of the target, retrieved by each fusion from each of the `inputs` (sets of modalities).

    Strategy "heads" is the aligner's own embedding of one modality, without a fusion. Rows that
    lack an item are left out; equal targets are right answers for one another. Columns: strategy,
    inputs, recall, rows.
    """
    sequences, target, rows = embed_rows(fuser, table, stores)
    name, records = fuser.config.target, []
    firsts = _first_items(table, name, stores[name])
    labels = table.item_labels(name, np.array([firsts[row] for row in rows], np.int64))
    for names in inputs:
        present = {name: torch.full((len(rows),), name in names) for name in sequences}
        fused = fuser(sequences, present)
        queries = {strategy: x.embedding.float().cpu() for strategy, x in fused.items()}
        if len(names) == 1:
            queries["heads"] = sequences[names[0]].mean(1).float().cpu()
        for strategy, embeddings in queries.items():
            recall = float((retrieval_ranks(embeddings, target, labels, labels) < 1).mean())
            records.append((strategy, " + ".join(names), recall, len(rows)))
    return pd.DataFrame(records, columns=["strategy", "inputs", "recall", "rows"])


@torch.no_grad()
def embed_rows(
    fuser: Fuser, table: Table, stores: dict[str, FeatureStore], batch_size: int = 1024
) -> tuple[dict[str, Tensor], Tensor, np.ndarray]:
    """For all rows that have an item of every modality: sequences {modality: (N, L, D)}, target
    (N, D), rows (N,). A row with several captions is embedded by its first.
    """
    firsts = {name: _first_items(table, name, store) for name, store in stores.items()}
    rows = np.array(sorted(set.intersection(*map(set, firsts.values()))))
    parts = {name: [] for name in stores}
    for chunk in np.array_split(rows, max(1, len(rows) // batch_size)):
        for name, store in stores.items():
            items = [firsts[name][row] for row in chunk]
            features = store.gather(items).to(fuser.aligner.device)
            parts[name].append(fuser.sequences({name: features})[name])
    sequences = {name: torch.cat(part) for name, part in parts.items()}
    target = sequences.pop(fuser.config.target).mean(1).float().cpu()
    return sequences, target, rows


def _first_items(table: Table, modality: str, store: FeatureStore) -> dict[int, int]:
    """Row -> its first encoded item."""
    # the store may be that of a whole split, of which a degraded split has the first rows
    items, rows = table.row_items(modality, store.valid)
    rows, first = np.unique(rows, return_index=True)
    return dict(zip(rows, items[first], strict=True))


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
