"""Notebook 02: train fusions on the heads of an aligner; test them on subsets of the modalities.

The heads stay frozen; the target is another modality's embedding. To learn which modality to rely
on, fusions train on damaged features and, in each fourth batch, on rows of the degraded split, if
the source has one.
"""

from collections.abc import Container
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from edge_lib.config import (
    DamageConfig,
    DataConfig,
    ExperimentConfig,
    FusionConfig,
    LossConfig,
)
from edge_lib.data.alignment_batches import AlignmentBatches, AlternateBatches, Batch
from edge_lib.data.damage import Damage, DamagedBatches, DamagedFeatures
from edge_lib.data.encoder_output import Features
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

DEGRADED_EVERY = 4  # batches; more degraded rows cost recall of whole ones (docs/training.md)


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


def fusion_splits(data: DataConfig, split: str) -> list[str]:
    """The split and, if the source has one, its degraded split."""
    return [name for name in (split, f"{DEGRADED}{split}") if name in splits(data)]


def fusion_tables(data: DataConfig, split: str) -> list[Table]:
    """Those of `fusion_splits`."""
    return [load_table(data, name) for name in fusion_splits(data, split)]


def training_features(config: ExperimentConfig) -> list[tuple[Table, dict[str, Features]]]:
    """Those of whole rows. With `fusion.damage`, rows of the degraded split follow, if the source
    has one: with one of the inputs degraded, for each, and with all.
    """
    tables, fusion = fusion_tables(config.data, "train"), config.fusion
    if not fusion.damage:
        return [(tables[0], open_features(config.feature_spec, tables[0]))]
    whole, *degraded = [open_features(config.feature_spec, table) for table in tables]
    sets = [(tables[0], whole)]
    for features in degraded:
        singles = [whole | {name: features[name]} for name in fusion.modalities]
        sets += [(tables[1], own) for own in [*singles, features]]
    return sets


def training_damages(fusion: FusionConfig, features: dict[str, Features]) -> dict[str, Damage]:
    """Those to the fused modalities of whole rows; none without `fusion.damage`."""
    names = fusion.modalities if fusion.damage else ()
    return {name: Damage(features[name], fusion.damage) for name in names}


def train_fusions(
    config: ExperimentConfig, aligner_folder: Path, folders: dict[int, Path]
) -> dict[str, float]:
    """Train every strategy of `config.fusion` once for each seed; keep the best mean R@1 on val.

    folders: seed -> its run folder. Returns the seconds of training.
    """
    spec, fusion, val = config.feature_spec, config.fusion, fusion_tables(config.data, "val")[-1]
    aligner, training = Aligner.from_pretrained(aligner_folder), training_features(config)
    stores = {name: open_store(spec, name, val) for name in (*fusion.modalities, fusion.target)}
    damages = training_damages(fusion, training[0][1])

    def evaluate(task: FusionTask) -> dict[str, float]:
        recall = fused_recall(task.fuser, val, stores, [tuple(fusion.modalities)])
        scores = {f"val.{r.strategy}.r1": r.recall for r in recall.itertuples()}
        return {**scores, "score": float(recall["recall"].mean())}

    seconds, data = 0, config.data
    for seed, folder in folders.items():
        options = data.missing, data.hard_negatives, *process_rank(), data.captions_per_row
        whole, *degraded = [
            AlignmentBatches(*own, fusion.train, seed, *options) for own in training
        ]
        batches = AlternateBatches(DamagedBatches(whole, damages), degraded, DEGRADED_EVERY)
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
    labels, records = _target_labels(fuser, table, stores, rows), []
    for names in inputs:
        fused = fuser(sequences, _presence(sequences, names))
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


def damage_conditions(
    fusion: FusionConfig,
    whole: dict[str, FeatureStore],
    degraded: dict[str, FeatureStore] | None = None,
) -> dict[str, dict[str, Features]]:
    """Features of whole rows by condition: with one modality's features damaged; with the input of
    one or all from the degraded split. degraded: its stores, if there is one.
    """
    config = (fusion.damage or DamageConfig()).model_copy(update={"share": 1.0})
    conditions = {"whole": whole}
    for number, name in enumerate(fusion.modalities):
        damaged = DamagedFeatures(whole[name], config, number)
        conditions[f"{name} features"] = whole | {name: damaged}
    if degraded:
        for name in fusion.modalities:
            conditions[f"{name} input"] = whole | {name: degraded[name]}
        conditions["all inputs"] = degraded
    return conditions


@torch.no_grad()
def gate_weights(
    fusers: dict[tuple[str, int], Fuser],
    table: Table,
    conditions: dict[str, dict[str, Features]],
) -> pd.DataFrame:
    """What the gated fusion of each fuser does with each row: columns training, seed (which name
    the fuser), condition, row, a weight for each modality, and hit: the target is retrieved first.
    """
    parts, some = {}, next(iter(fusers.values()))
    for condition, stores in conditions.items():
        sequences, target, rows = embed_rows(some, table, stores)
        present = _presence(sequences, sequences)
        labels = _target_labels(some, table, stores, rows)
        for key, fuser in fusers.items():
            fused = fuser.fusions["gated"](sequences, present)
            ranks = retrieval_ranks(fused.embedding.float().cpu(), target, labels, labels)
            weights = pd.DataFrame(fused.weights.float().cpu(), rows, fuser.config.modalities)
            parts[*key, condition] = weights.assign(hit=ranks < 1)
    names = ["training", "seed", "condition", "row"]
    return pd.concat(parts, names=names).reset_index()


def gate_shifts(weights: pd.DataFrame) -> pd.DataFrame:
    """By condition of `damage_conditions`: how far the damaged modality's weight falls from that
    in whole rows, R@1, and what training "with damage" adds to the R@1 "without"; with the
    standard deviation over seeds. weights: of `gate_weights`.
    """
    means = weights.drop(columns="row").groupby(["condition", "training", "seed"]).mean()
    rows = {}
    for condition in weights["condition"].unique():
        damaged, plain = (means.loc[condition, name] for name in ("with damage", "without"))
        name, gain = condition.split()[0], damaged["hit"] - plain["hit"]
        shift = {"r1": damaged["hit"].mean(), "gain": gain.mean(), "gain_sd": gain.std()}
        if name in weights:
            fall = means.loc["whole", "with damage"][name] - damaged[name]
            shift |= {"fall": fall.mean(), "fall_sd": fall.std()}
        rows[condition] = shift
    return pd.DataFrame(rows).T


def plus_minus(sd: float, places: int) -> str:
    """ "± sd", the standard deviation over seeds; empty for one seed, of which it is NaN."""
    return "" if np.isnan(sd) else f" ± {sd:.{places}f}"


def _presence(sequences: dict[str, Tensor], names: Container[str]) -> dict[str, Tensor]:
    """(N,) bool for each modality: that all rows have those of `names` alone."""
    return {
        name: part.new_full((len(part),), name in names, dtype=torch.bool)
        for name, part in sequences.items()
    }


def _target_labels(fuser: Fuser, table: Table, stores: dict, rows: np.ndarray) -> np.ndarray:
    """(N,) of the rows' targets, equal for equal ones."""
    name = fuser.config.target
    firsts = _first_items(table, name, stores[name])
    return table.item_labels(name, np.array([firsts[row] for row in rows], np.int64))
