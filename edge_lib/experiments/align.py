"""Notebook 01 and the points of its sweeps: train an aligner and test its retrieval."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from edge_lib.config import DataConfig, ExperimentConfig, FeatureSpec, LossConfig, TrainConfig
from edge_lib.data.alignment_batches import AlignmentBatches, Batch
from edge_lib.data.encoder_output import Features
from edge_lib.data.table import Table
from edge_lib.experiments.checks import check_experiment
from edge_lib.experiments.mining import HardNegatives
from edge_lib.features.extract import write_features
from edge_lib.features.online import open_features
from edge_lib.features.store import FeatureStore, open_stores, store_names
from edge_lib.metrics.recall import pair_rows, recall_metrics, recall_table
from edge_lib.models import Aligner
from edge_lib.nn.losses import build_loss
from edge_lib.nn.maxsim import MaxSimInfoNCE, TokenVectors, concatenate
from edge_lib.runs import Run
from edge_lib.sources import get_source, load_table
from edge_lib.training.device import local_device, process_rank
from edge_lib.training.fit import Evaluate, fit


class AlignmentTask(nn.Module):
    """An aligner and its loss, averaged over pairs of modalities with weights.

    A pair that is left out may become aligned through a third modality (ImageBind, Girdhar et al.
    2023, arXiv 2305.05665).
    """

    def __init__(
        self, aligner: Aligner, loss: LossConfig, pairs: Sequence[tuple[str, str]], seed: int
    ):
        super().__init__()
        self.aligner = aligner
        self.loss = MaxSimInfoNCE(loss) if aligner.late_interaction else build_loss(loss)
        self.pairs, self.seed = pairs, seed
        self.weights = loss.pair_weights or [1.0] * len(pairs)

    def forward(self, batch: Batch) -> Tensor:
        """The loss (); a row takes part in the pairs of which it has both items."""
        embeddings, present = self.aligner(batch.features), batch.present
        # the same draw on every rank, and again when a killed run is resumed
        generator = torch.Generator().manual_seed(self.seed + batch.step)
        total = 0
        for (a, b), weight in zip(self.pairs, self.weights, strict=True):
            both = present[a] & present[b]
            labels = (batch.labels[a], batch.labels[b]) if batch.labels else None
            total += weight * self.loss(embeddings[a], embeddings[b], both, generator, labels)
        return total / sum(self.weights)

    def save_pretrained(self, folder: Path) -> None:
        self.aligner.save_pretrained(folder)


def train_aligner(config: ExperimentConfig, run_folder: Path) -> dict[str, float]:
    """Train the heads on the train split; keep those with the best mean R@1 on val."""
    run = Run(run_folder)
    task, batches, evaluate = prepare_alignment(config, run)
    return fit(task, batches, config.train, run, evaluate, config.seed)


def prepare_alignment(
    config: ExperimentConfig, run: Run
) -> tuple[AlignmentTask, AlignmentBatches, Evaluate]:
    """Untrained heads, the batches of the train split, and the evaluation on val."""
    train, val = load_table(config.data, "train"), load_table(config.data, "val")
    spec = config.feature_spec
    features, stores = open_features(spec, train), open_stores(spec, val)
    batches = alignment_batches(train, features, config.data, config.train, config.seed)
    labels = item_labels(val, stores)
    run.ensure_unchanged("features", store_names(spec, train, val))
    set_seed(config.seed)
    widths = {name: store.widths for name, store in stores.items()}
    encoding = config.features.precision, config.features.tokens.window
    aligner = Aligner(config.modalities, config.loss.dims, widths, *encoding)

    def evaluate(task: AlignmentTask) -> dict[str, float]:
        embeddings, rows = embed_table(task.aligner, val, stores)
        options = {"pairs": config.pairs, "labels": labels}
        recall = recall_table(embeddings, rows, [aligner.width], [1], val.groups, **options)
        metrics = {f"val.{r.query}_to_{r.gallery}.r1": float(r.recall) for r in recall.itertuples()}
        return {**metrics, "score": float(recall.recall.mean())}

    task = AlignmentTask(aligner, config.loss, config.pairs, config.seed)
    if mining := config.train.hard_negatives:
        folder = run.folder / "hard_negatives"
        batches.miner = HardNegatives(aligner, batches, config.pairs[0], mining, folder)
    return task, batches, evaluate


def alignment_batches(
    table: Table, features: dict[str, Features], data: DataConfig, train: TrainConfig, seed: int
) -> AlignmentBatches:
    """This process's training batches of a table."""
    options = data.missing, data.hard_negatives, *process_rank()
    mixed = data.captions_per_row, data.fusemix
    return AlignmentBatches(table, features, train, seed, *options, *mixed)


def measure_aligner(config: ExperimentConfig, run_folder: Path) -> dict[str, float]:
    """A point of a sweep: check the config, encode what is missing, train, and test."""
    spec = config.feature_spec
    check_experiment(config, Run(run_folder))
    write_features(config.data, spec)
    metrics = train_aligner(config, run_folder)
    aligner = Aligner.from_pretrained(run_folder / "checkpoints/best").to(local_device())
    dims, test = config.evaluate.dims or config.loss.dims, load_table(config.data, "test")
    stores = open_stores(spec, test)
    embeddings, rows = embed_table(aligner, test, stores)
    options = {"pairs": config.pairs, "labels": item_labels(test, stores)}
    recall = recall_table(embeddings, rows, dims, config.evaluate.ks, test.groups, **options)
    metrics |= recall_metrics(recall, "test")
    metrics |= probe_metrics(config.data, spec, aligner, dims)
    for name, head in aligner.heads.items():
        metrics[f"parameters.{name}"] = sum(p.numel() for p in head.parameters())
    return metrics


def probe_metrics(
    data: DataConfig, spec: FeatureSpec, aligner: Aligner, dims: list[int]
) -> dict[str, float]:
    """Metrics of the probe that the data source defines; empty if it has none."""
    probe = get_source(data).probe

    def embed(table: Table) -> dict[str, Tensor]:
        stores = open_stores(spec, table)
        return pair_rows(*embed_table(aligner, table, stores))[0]

    return probe(data, embed, dims) if probe else {}


def embed_saved(
    folder: Path, spec: FeatureSpec, table: Table
) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """`embed_table`, with the aligner saved in a folder and the table's feature stores."""
    aligner = Aligner.from_pretrained(folder).to(local_device())
    spec = aligner.feature_spec(spec.features, spec.cache_dir)
    return embed_table(aligner, table, open_stores(spec, table))


@torch.no_grad()
def embed_table(
    aligner: Aligner, table: Table, stores: dict[str, FeatureStore], batch_size: int = 1024
) -> tuple[dict[str, Tensor | TokenVectors], dict[str, np.ndarray]]:
    """Embeddings (N_m, D) of the items of all rows, or their token vectors, on the CPU, and the row
    (N_m,) of each. That of an image stands once for each row that shares it.
    """
    embeddings, rows = {}, {}
    for name, store in stores.items():
        items = np.flatnonzero(store.valid)
        parts = np.split(items, range(batch_size, len(items), batch_size))
        outputs = (store.gather(part).to(aligner.device) for part in parts)
        embedded = [aligner.embed_output(name, x).to("cpu", torch.float32) for x in outputs]
        own, rows[name] = table.row_items(name, store.valid)
        embeddings[name] = concatenate(embedded)[np.searchsorted(items, own)]
    return embeddings, rows


def item_labels(table: Table, stores: dict[str, FeatureStore]) -> dict[str, np.ndarray]:
    """For each embedding of `embed_table`, a number that equal items share; for `recall_table`."""
    return {
        name: table.item_labels(name, table.row_items(name, store.valid)[0])
        for name, store in stores.items()
    }
