"""`edge-glass compare`: which encoders and layers agree across modalities, before training.

Every candidate gives a vector for each of n rows; the vectors of two modalities are compared by
linear CKA and mutual nearest neighbours. Nothing is stored but the results.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edge_lib.config import (
    MODALITIES,
    CandidatesConfig,
    CompareConfig,
    ConfigError,
    ExperimentConfig,
    FeaturesConfig,
)
from edge_lib.data.table import Table
from edge_lib.features.encoder import Encoder, load_encoder, run_layers
from edge_lib.features.items import Items
from edge_lib.features.reading import BatchLoader
from edge_lib.metrics.similarity import (
    linear_cka,
    nearest_neighbours,
    shared_neighbours,
    unbiased_cka,
)
from edge_lib.runs.progress import progress_bar
from edge_lib.sources import load_table, splits
from edge_lib.training.device import local_device

NAMES = "modality", "encoder", "layer"
OWN = "own"  # in place of a layer: the vector that pooler 'pooled' gets


Vectors = dict[int | str, Tensor]


@dataclass(frozen=True, eq=False)
class Candidate:
    """The vectors (N, P) of one layer for all rows; NaN where a row has no usable item."""

    modality: str
    encoder: str
    layer: int | str
    vectors: Tensor


def compare_layers(config: ExperimentConfig) -> pd.DataFrame:
    """For each pair that the loss aligns, all pairs of candidates: modality_a, encoder_a, layer_a,
    modality_b, encoder_b, layer_b, rows, cka, unbiased_cka, knn, and chance, that of knn.

    ConfigError for a layer that does not exist, and a pair with fewer rows than neighbours.
    """
    if (split := config.compare.split) not in (known := splits(config.data)):
        raise ConfigError(f"compare.split: no split {split!r}, only {', '.join(known)}")
    table = load_table(config.data, split)
    rows = _sample_rows(table, config)
    candidates = {name: _candidates(config, name, table, rows) for name in config.modalities}
    parts = [
        _compare(candidates[a], candidates[b], config.compare.k, f"compare: {a} and {b}")
        for a, b in config.pairs
    ]
    return pd.concat(parts, ignore_index=True)


def _compare(a: list[Candidate], b: list[Candidate], k: int, name: str) -> pd.DataFrame:
    """All pairs of the candidates of two modalities, on the rows that have both."""
    both = ~torch.stack([c.vectors.isnan().any(1) for c in [*a, *b]]).any(0)
    if (count := int(both.sum())) < (needed := max(4, k + 2)):
        raise ConfigError(
            f"{name}: {count} rows have both, of those that compare.rows and groups leave; "
            f"k={k} needs {needed} or more"
        )
    vectors = {c: c.vectors[both] for c in [*a, *b]}
    near = {c: nearest_neighbours(x, k) for c, x in vectors.items()}
    records, pairs = [], [*product(a, b)]
    with progress_bar(name, len(pairs), " pairs") as bar:
        for one, two in pairs:
            names = {f"{key}_a": getattr(one, key) for key in NAMES}
            names |= {f"{key}_b": getattr(two, key) for key in NAMES}
            x, y = vectors[one], vectors[two]
            values = {"cka": linear_cka(x, y), "unbiased_cka": unbiased_cka(x, y)}
            knn = {"knn": shared_neighbours(near[one], near[two]), "chance": k / (count - 1)}
            records.append(names | {"rows": count} | values | knn)
            bar.update()
    return pd.DataFrame(records)


def _sample_rows(table: Table, config: ExperimentConfig) -> np.ndarray:
    """Rows with items of two modalities or more, ascending; of a group of edits only the first,
    because the others would be its neighbours in any encoder.
    """
    filled = [table.has(MODALITIES[name].column) for name in config.modalities]
    rows = np.flatnonzero(np.sum(filled, axis=0) >= 2)
    rows = rows[np.unique(table.groups[rows], return_index=True)[1]]
    if len(rows) > config.compare.rows:
        rows = np.random.default_rng(config.seed).choice(rows, config.compare.rows, replace=False)
    return np.sort(rows)


def _candidates(
    config: ExperimentConfig, modality: str, table: Table, rows: np.ndarray
) -> list[Candidate]:
    """Of one modality, encoder by encoder."""
    own = config.modalities[modality].encoder_config
    chosen = config.compare.candidates.get(modality, CandidatesConfig())
    key = f"compare.candidates.{modality}.encoders" if chosen.encoders else f"{modality}.encoder"
    candidates = []
    for name in chosen.encoders or [own.encoder]:
        changes = {"encoder": name, "layer": None}
        changes |= {} if name == own.encoder else {"revision": None}
        try:
            encoder = load_encoder(modality, own.model_copy(update=changes))
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
        vectors = layer_vectors(encoder, modality, table, rows, config.features)
        for layer in chosen_layers(config.compare, modality, name, len(vectors) - 1):
            candidates.append(Candidate(modality, name, layer, vectors[layer]))
    return candidates


def chosen_layers(
    compare: CompareConfig, modality: str, encoder: str, count: int
) -> list[int | str]:
    """The layers that are compared, counted from the embeddings, and the encoder's own output.
    count: that there are.
    """
    layers = compare.candidates.get(modality, CandidatesConfig()).layers
    if wrong := [layer for layer in layers or () if not -count <= layer < count]:
        raise ConfigError(
            f"compare.candidates.{modality}.layers: {encoder} has no layer {wrong[0]}, only 0, "
            f"..., {count - 1}"
        )
    numbers = range(count) if layers is None else (layer % count for layer in layers)
    return [*dict.fromkeys(numbers), OWN]


def layer_vectors(
    encoder: Encoder, modality: str, table: Table, rows: np.ndarray, features: FeaturesConfig
) -> Vectors:
    """{layer: (len(rows), P)} of all layers, and of the encoder's own output. Of several captions
    of a row its first one; NaN for a row without a usable item, which is counted as skipped.
    """
    return item_vectors(encoder, modality, table, _first_items(table, modality, rows), features)


def item_vectors(
    encoder: Encoder, modality: str, table: Table, numbers: np.ndarray, features: FeaturesConfig
) -> Vectors:
    """{layer: (len(numbers), P)} of items by number; NaN for -1 and where an item is skipped."""
    present, items = np.unique(numbers[numbers >= 0]), Items(table, modality)
    encoded, vectors = _encode(encoder.to(local_device()), items, present, features)
    places = pd.Series(range(len(encoded)), encoded).reindex(numbers).fillna(-1).astype(int)
    by_layer, places = {}, places.tolist()
    for layer, own in enumerate(vectors, -1):
        nan = torch.full((1, own.shape[1]), torch.nan)
        by_layer[OWN if layer < 0 else layer] = torch.cat([own, nan])[places]
    return by_layer


def _encode(
    encoder: Encoder, items: Items, numbers: np.ndarray, features: FeaturesConfig
) -> tuple[list[int], list[Tensor]]:
    """The items that could be encoded, and their vectors of `run_layers`."""
    size = encoder.batch_size(features.batch_size)
    batches = np.split(numbers, range(size, len(numbers), size))
    loader = BatchLoader(items, encoder, features.num_workers)
    encoded, parts = [], []
    with progress_bar(f"{items.table.name} {items.modality}", len(numbers), " items") as bar:
        for batch in loader.load(batches):
            items.skip(batch.skipped)
            encoded += batch.items
            if batch.items:
                parts.append(run_layers(encoder, batch.inputs, features.precision))
            bar.update(len(batch.items) + len(batch.skipped))
    if not parts:
        raise ConfigError(f"compare: {items.table.name}: no usable item of {items.modality}")
    return encoded, [torch.cat(layer) for layer in zip(*parts, strict=True)]


def _first_items(table: Table, modality: str, rows: np.ndarray) -> np.ndarray:
    """(len(rows),) the first item of each row; -1 where it has none."""
    filled = table.has(MODALITIES[modality].column)[table.item_rows(modality)]
    items, owners = table.row_items(modality, filled)
    if not len(owners):
        return np.full(len(rows), -1)
    places = np.searchsorted(owners, rows).clip(max=len(owners) - 1)
    return np.where(owners[places] == rows, items[places], -1)


def pair_tables(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each pair of modalities, and a name: "compare_vision_text"."""
    for (a, b), part in table.groupby(["modality_a", "modality_b"], sort=False):
        yield f"compare_{a}_{b}", part
