"""Embeddings of tables as one Parquet file, for pandas, `datasets`, faiss and LanceDB.

A row for each picture, clip and caption:

    id, split, row      of the table; ids may repeat, and rows of several captions do
    modality            vision, audio or text
    text                the caption; of a picture or clip its first one, or null
    path                the file of a picture or clip, or null
    embedding_64, ...   the first 64, ... dims, of unit length
    scale_64, ...       with int8: embedding_64 * scale_64 has unit length

The key "edge_glass" of the schema's metadata says as JSON what made them. Memory does not grow with
the table: features go through the feature store, and row groups are written one by one.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.config import (
    MODALITIES,
    ConfigError,
    DataConfig,
    FeaturesConfig,
    FeatureSpec,
    load_config,
)
from edge_lib.data.table import Table
from edge_lib.features.extract import incomplete, launch_logs, share_stores, write_stores
from edge_lib.features.store import FeatureStore
from edge_lib.features.store_writer import StoreWriter
from edge_lib.models import Aligner
from edge_lib.models.saving import model_digest
from edge_lib.runs.files import absolute_path, whole_file
from edge_lib.runs.progress import progress_bar
from edge_lib.sources import load_table
from edge_lib.sources import splits as available_splits
from edge_lib.sources.download import download_missing
from edge_lib.sources.own_files import Columns, data_of_path, own_splits
from edge_lib.training.launch import launch

ROW_GROUP = 4096
TYPES = {"float16": pa.float16(), "int8": pa.int8()}
Dtype = Literal["float16", "int8"]
Counts = dict[str, dict[str, int]]


def embed_source(
    aligner: Aligner,
    source: str | Path,
    out: str | Path,
    splits: Sequence[str] = (),
    overrides: str = "",
    columns: Columns | None = None,
    num_processes: int | None = None,
    **options,
) -> Counts:
    """`write_embeddings` of what a config's data section or `data_of_path` names, by default all
    splits. overrides: of a config. columns: of `data_of_path`. num_processes: by default as many as
    the config says, or one for each GPU. options: dims, dtype.
    """
    if not isinstance(aligner, Aligner):
        raise ConfigError(f"only aligners embed, and this is a {type(aligner).__name__}")
    aligner.check_pooled("a file of embeddings")
    if num_processes is not None and num_processes < 1:
        raise ConfigError(f"num_processes: expected at least 1, got {num_processes}")
    if Path(source).suffix not in (".yaml", ".yml"):
        if overrides:
            raise ConfigError(f"overrides: {source} is not a config (.yaml)")
        data, features = data_of_path(source, **columns or {}), None
        available, processes = own_splits(data), max(1, torch.cuda.device_count())
    else:
        if columns:
            raise ConfigError(f"{source} is a config, which names the columns: {min(columns)}")
        path = absolute_path(source)
        config = load_config(path if path.exists() else source, overrides)
        data, features, available = config.data, config.features, available_splits(config.data)
        processes = config.extract_launch["num_processes"]
        download_missing(data)
    if unknown := [split for split in splits if split not in available]:
        raise ConfigError(f"splits: no split {unknown[0]!r}; {source} has {', '.join(available)}")
    options |= {"features": features, "num_processes": num_processes or processes}
    return write_embeddings(aligner, data, splits or available, out, **options)


def write_embeddings(
    aligner: Aligner,
    data: DataConfig,
    splits: Sequence[str],
    out: str | Path,
    dims: Sequence[int] = (),
    dtype: Dtype = "float16",
    features: FeaturesConfig | None = None,
    num_processes: int = 1,
) -> Counts:
    """Embed all items of some splits that the aligner has a head for, into a Parquet file (see
    above), which appears whole or not at all.

    dims: sizes of the embedding, the largest by default. features: how extraction runs, in the
    aligner's precision. num_processes: to encode; more than one are launched. Returns
    {"train/vision": {"embedded": n, "skipped": k}, ...}. Raises ConfigError for dims that the
    aligner lacks, and tables without items for it.

    Example:
        >>> data = data_of_path("pictures")  # edge_lib.sources.own_files
        >>> write_embeddings(aligner, data, ["train"], "pictures.parquet", dims=[64])
    """
    columns, path, counts = EmbeddingColumns.of(aligner, dims, dtype), _output_path(out), {}
    spec = aligner.feature_spec(features or FeaturesConfig(), data.cache_dir)
    stores = _open_writers(spec, data, splits)
    if num_processes == 1:
        write_stores([*stores.values()], spec)
    elif incomplete(stores.values()):
        options = {"num_processes": num_processes, "log_dir": launch_logs(data, spec, splits)}
        launch(encode_items, spec, data, splits, **options)
    with whole_file(path) as temporary, columns.open(temporary, aligner) as writer:
        for (split, name), store in stores.items():
            reader, table = FeatureStore(store.folder), store.table
            counts[f"{split}/{name}"] = _counts(table, name, reader)
            for group in _groups(aligner, split, store, reader, columns):
                writer.write_table(group)
    return counts


@dataclass(frozen=True)
class EmbeddingColumns:
    """The sizes of the embeddings in a file, and their type."""

    dims: list[int]
    dtype: Dtype

    @classmethod
    def of(cls, aligner: Aligner, dims: Sequence[int], dtype: Dtype) -> "EmbeddingColumns":
        """ConfigError for dims that the aligner was not trained for, and for another type."""
        if unknown := sorted({*dims} - {*aligner.dims}):
            raise ConfigError(f"dims: no dim {unknown[0]}; the aligner has {sorted(aligner.dims)}")
        if dtype not in TYPES:
            raise ConfigError(f"dtype: expected {' or '.join(TYPES)}, got {dtype!r}")
        return cls(sorted({*dims} or {aligner.width}), dtype)

    @property
    def schema(self) -> pa.Schema:
        texts = [(name, pa.string()) for name in ("id", "split", "modality", "text", "path")]
        lists = [(f"embedding_{d}", pa.list_(TYPES[self.dtype], d)) for d in self.dims]
        scales = [(f"scale_{d}", pa.float32()) for d in self.dims if self.dtype == "int8"]
        return pa.schema([*texts[:2], ("row", pa.int64()), *texts[2:], *lists, *scales])

    def open(self, path: Path, aligner: Aligner) -> pq.ParquetWriter:
        metadata = {
            "model": str(aligner.source),
            "model_sha256": model_digest(aligner.source) if aligner.source else None,
            "encoders": {name: m.encoder for name, m in aligner.modalities.items()},
            "dims": self.dims,
            "dtype": self.dtype,
            "scale": "embedding_D * scale_D has unit length" if self.dtype == "int8" else None,
        }
        schema = self.schema.with_metadata({"edge_glass": json.dumps(metadata)})
        # embeddings are neither repeated nor compressible
        texts = ["id", "split", "modality", "text", "path"]
        return pq.ParquetWriter(path, schema, use_dictionary=texts, compression="zstd")

    def arrays(self, embeddings: Tensor) -> dict[str, pa.Array]:
        """(N, D) embeddings, not normalised -> columns."""
        columns = {}
        for dim in self.dims:
            values = F.normalize(embeddings[:, :dim], dim=1).numpy()
            if self.dtype == "int8":
                scale = np.abs(values).max(1).clip(min=1e-30) / 127
                columns[f"scale_{dim}"] = pa.array(scale.astype(np.float32))
                values = np.rint(values / scale[:, None])
            flat = pa.array(values.astype(self.dtype).ravel(), TYPES[self.dtype])
            columns[f"embedding_{dim}"] = pa.FixedSizeListArray.from_arrays(flat, dim)
        return columns


def _output_path(out: str | Path) -> Path:
    path = absolute_path(out)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file, such as {path / 'out.parquet'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: cannot be written to: {error.strerror}") from None
    return path


def encode_items(spec: FeatureSpec, data: DataConfig, splits: Sequence[str]) -> None:
    """Write the stores of some splits, with the processes that are launched beside this one."""
    share_stores([*_open_writers(spec, data, splits).values()], spec)


def _open_writers(
    spec: FeatureSpec, data: DataConfig, splits: Sequence[str]
) -> dict[tuple[str, str], StoreWriter]:
    """The stores of each split and modality that it has items of."""
    tables = {split: load_table(data, split) for split in splits}
    stores = {
        (split, name): StoreWriter(spec, name, table)
        for split, table in tables.items()
        for name in spec.modalities
        if table.has(MODALITIES[name].column).any() and len(table.items(name))
    }
    if not stores:
        names, columns = spec.modalities, [MODALITIES[name].column for name in spec.modalities]
        raise ConfigError(
            f"{', '.join(t.name for t in tables.values())}: no row has {' or '.join(columns)}, "
            f"and the aligner embeds {' and '.join(names)}"
        )
    return stores


def _counts(table: Table, modality: str, store: FeatureStore) -> dict[str, int]:
    """Items that are embedded, and those that could not be; a null is neither."""
    exists = table.has(MODALITIES[modality].column)[table.item_rows(modality)]
    embedded = int(store.valid.sum())
    return {"embedded": embedded, "skipped": int((exists & ~store.valid).sum())}


@torch.no_grad()
def _groups(
    aligner: Aligner, split: str, store: StoreWriter, features: FeatureStore, to: EmbeddingColumns
) -> Iterator[pa.Table]:
    """Row groups of the file: the valid items of one modality of a table."""
    name, table, items = store.modality, store.table, np.flatnonzero(features.valid)
    rows, captioned = table.item_rows(name)[items], table.has("texts").any()
    head, size = aligner.heads[name], store.spec.features.batch_size
    with progress_bar(f"embed {split} {name}", len(items), " items") as bar:
        for start in range(0, len(items), ROW_GROUP):
            group = items[start : start + ROW_GROUP]
            embeddings = []
            for part in np.split(group, range(size, len(group), size)):
                embeddings.append(head(features.gather(part).to(aligner.device))[1].float().cpu())
                bar.update(len(part))
            own = rows[start : start + ROW_GROUP]
            described = {
                "id": table.ids.take(own),
                "split": [split] * len(own),
                "row": own,
                "modality": [name] * len(own),
                "text": _texts(table, name, group, own) if captioned else [None] * len(own),
                "path": table.paths(MODALITIES[name].column, own)
                if name != "text"
                else [None] * len(own),
            }
            yield pa.table(described | to.arrays(torch.cat(embeddings)), to.schema)


def _texts(table: Table, modality: str, items: np.ndarray, rows: np.ndarray) -> list[str | None]:
    """Captions, or the first caption of each item's row; None where it has none."""
    if modality == "text":
        return table.captions.take(items)
    if not len(owners := table.caption_rows):
        return [None] * len(rows)
    places = np.searchsorted(owners, rows).clip(max=len(owners) - 1)
    captioned = owners[places] == rows
    captions = iter(table.captions.take(places[captioned]))
    return [next(captions) if own else None for own in captioned]
