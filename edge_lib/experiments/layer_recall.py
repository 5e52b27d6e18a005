"""Notebook 11: recall after training on pairs of layers, whose vectors stay in memory.

Each encoder runs once over a table and gives all layers; heads on vectors train in seconds.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from accelerate.utils import set_seed
from torch import Tensor

from edge_lib.config import ExperimentConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.experiments.align import AlignmentTask, alignment_batches, embed_table, item_labels
from edge_lib.experiments.compare import OWN, Vectors, chosen_layers, item_vectors
from edge_lib.features.encoder import load_encoder
from edge_lib.metrics.recall import recall_table
from edge_lib.models import Aligner
from edge_lib.runs import Run
from edge_lib.sources import load_table
from edge_lib.training.device import local_device
from edge_lib.training.fit import fit


@dataclass
class LayerFeatures:
    """Pooled vectors (items, P) of one layer, with the interface of a `FeatureStore`."""

    vectors: Tensor

    def __post_init__(self):
        self.valid = (~self.vectors.isnan().any(1)).numpy()
        self.widths = 0, self.vectors.shape[1]

    def gather(self, items) -> EncoderOutput:
        """(B,) item numbers -> (B, P) pooled."""
        return EncoderOutput(None, None, self.vectors[torch.as_tensor(items)])


def recall_of_layers(config: ExperimentConfig, run: Run) -> pd.DataFrame:
    """R@k on test after training on each pair of the layers that `compare` names, for the first
    pair of the loss: layer_a, layer_b, query, gallery, k, recall. Trained pairs are kept in `run`.
    """
    a, b = config.pairs[0]
    tables = {split: load_table(config.data, split) for split in ("train", "test")}
    vectors = {name: _vectors(config, name, tables) for name in (a, b)}
    parts = []
    for layers in product(*(_layers(config, name, vectors[name]) for name in (a, b))):
        pairs = [*zip((a, b), layers, strict=True)]
        features = {
            split: {name: LayerFeatures(vectors[name][split][layer]) for name, layer in pairs}
            for split in tables
        }
        part = run.part(f"layers/{layers[0]}-{layers[1]}")
        aligner = _train(config, tables["train"], features["train"], part)
        recall = _recall(config, aligner, tables["test"], features["test"])
        parts.append(recall.assign(layer_a=layers[0], layer_b=layers[1]))
    return pd.concat(parts, ignore_index=True)


def _vectors(
    config: ExperimentConfig, modality: str, tables: dict[str, Table]
) -> dict[str, Vectors]:
    """Of all items of each table, by split and layer."""
    encoder = load_encoder(modality, config.modalities[modality].encoder_config)
    items = {split: np.arange(len(table.items(modality))) for split, table in tables.items()}
    return {
        split: item_vectors(encoder, modality, table, items[split], config.features)
        for split, table in tables.items()
    }


def _layers(config: ExperimentConfig, modality: str, vectors: dict[str, Vectors]) -> list[int]:
    name, count = config.modalities[modality].encoder, len(vectors["train"]) - 1
    layers = chosen_layers(config.compare, modality, name, count)
    return [layer for layer in layers if layer != OWN]


def _train(
    config: ExperimentConfig, table: Table, features: dict[str, LayerFeatures], run: Run
) -> Aligner:
    """The heads after the last step."""
    batches = alignment_batches(table, features, config.data, config.train, config.seed)
    set_seed(config.seed)
    modalities = {name: config.modalities[name] for name in features}
    widths = {name: own.widths for name, own in features.items()}
    aligner = Aligner(modalities, config.loss.dims, widths).to(local_device())
    task = AlignmentTask(aligner, config.loss, [(*features,)], config.seed)
    fit(task, batches, config.train, run, lambda _: {"score": 0.0}, config.seed)
    return task.aligner


def _recall(
    config: ExperimentConfig, aligner: Aligner, table: Table, features: dict[str, LayerFeatures]
) -> pd.DataFrame:
    embeddings, rows = embed_table(aligner, table, features)
    options = {"pairs": [(*features,)], "labels": item_labels(table, features)}
    ks = config.evaluate.ks
    return recall_table(embeddings, rows, [aligner.width], ks, table.groups, **options)
