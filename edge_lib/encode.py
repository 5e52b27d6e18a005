"""Make feature stores: run each frozen encoder once over each table, in shards, on all processes.

Of W processes, process r encodes every W-th shard. Files are the only thing they share, so that no
collective can time out while one of them still has hours to go.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from edge_lib.config import ConfigError, ExperimentConfig, FeaturesConfig
from edge_lib.data.sources import load_table, splits
from edge_lib.encoders import Encoder, load_encoder
from edge_lib.features import FeatureStore, Items, encode, store_folder
from edge_lib.launch import local_device
from edge_lib.runs import write_json
from edge_lib.shards import find_shard, is_whole, map_shard, save_shard


def encode_tables(config: ExperimentConfig) -> dict[str, dict[str, int]]:
    """Make every store the experiment reads. Run it through `launch`: processes share the work.

    Returns {"train/vision": {"items": n, "skipped": k}, ...}.
    """
    summary = {}
    wanted = [s for s in splits(config.data) if not (config.features.online and s == "train")]
    for modality, modality_config in config.modalities.items():
        encoder = None
        for split in wanted:
            table = load_table(config.data, split)
            folder = store_folder(config, modality, table)
            items = Items(table, modality)
            for shard in missing_shards(folder, len(items), config.features):
                encoder = encoder or load_encoder(modality, modality_config).to(local_device())
                keep_tokens = modality_config.pooler != "pooled"
                write_shard(folder, shard, items, encoder, config.features, keep_tokens)
            store = finish_store(folder, items, config.features)
            skipped = len(store.ok) - int(store.ok.sum())
            if modality == "text":
                skipped += len(table.skipped["no caption"])
            summary[f"{split}/{modality}"] = {"items": len(store), "skipped": skipped}
    return summary


def missing_shards(folder: Path, items: int, config: FeaturesConfig) -> list[int]:
    """This process's shards that are not there or not what their names say."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return [i for i in range(rank, _shards(items, config), world) if not is_whole(folder, i)]


def write_shard(
    folder: Path,
    shard: int,
    items: Items,
    encoder: Encoder,
    config: FeaturesConfig,
    keep_tokens: bool,
) -> None:
    """Encode one shard's items and put the file in place."""
    start = shard * config.shard_rows
    stop = min(start + config.shard_rows, len(items))
    dtype = getattr(torch, config.dtype)
    pooled, tokens = [None] * (stop - start), [None] * (stop - start)
    batches = items.batches(start, stop, config.batch_size)
    reader = _Reader(items, encoder, batches)
    loader = DataLoader(reader, batch_size=None, num_workers=config.num_workers)
    started, values, done = time.perf_counter(), 0, 0
    for batch, inputs in loader:
        if not len(batch):
            continue
        encoded = encode(encoder, inputs, config.precision).to("cpu")
        for item, vector in zip(batch, encoded.pooled.to(dtype), strict=True):
            pooled[item - start] = vector
        if keep_tokens:
            for item, sequence, mask in zip(
                batch, encoded.tokens.to(dtype), encoded.mask, strict=True
            ):
                tokens[item - start] = sequence[mask]
            values += int(encoded.mask.sum()) * encoded.tokens.shape[-1]
            done += len(batch)
            _check_budget(values / done * len(items) * dtype.itemsize, config.max_gb)
    save_shard(folder, shard, pooled, tokens if keep_tokens else None)
    speed = (stop - start) / (time.perf_counter() - started)
    name = f"{items.table.name} {items.modality}"
    print(f"{name}: items {start:,}-{stop:,} of {len(items):,}, {speed:,.0f}/s", flush=True)


@dataclass
class _Reader(torch.utils.data.Dataset):
    """Batches of items that decode, prepared for the encoder; runs in loader processes."""

    items: Items
    encoder: Encoder
    batches: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[list[int], dict]:
        batch = self.batches[number].tolist()
        inputs = self.items.get(batch)
        good = [item for item, value in zip(batch, inputs, strict=True) if value is not None]
        values = [value for value in inputs if value is not None]
        return good, self.encoder.prepare(values) if values else {}


def _check_budget(needed: float, max_gb: float) -> None:
    """Refuse a token store of `needed` bytes before the disk is full."""
    if needed > max_gb * 1e9:
        raise ConfigError(
            f"the tokens need about {needed / 1e9:,.1f} GB, over features.max_gb={max_gb}; raise "
            "it, use pooler 'pooled', or set features.online=true train.num_workers=0"
        )


def finish_store(folder: Path, items: Items, config: FeaturesConfig) -> FeatureStore:
    """Wait for the other processes' shards; process 0 then writes the manifest."""
    shards = _shards(len(items), config)
    first = int(os.environ.get("RANK", 0)) == 0
    # process 0 tells of all shards, so it must not take a broken one for one that is there
    ready = is_whole if first and int(os.environ.get("WORLD_SIZE", 1)) > 1 else find_shard
    for shard in range(shards):
        while not ready(folder, shard):
            time.sleep(0.5)
    if first:
        some = _some_features(folder, shards)
        write_json(
            folder / "manifest.json",
            {
                "table": items.table.name,
                "items": len(items),
                "shards": shards,
                "shard_rows": config.shard_rows,
                "pooled_width": some["pooled"].shape[1],
                "token_width": some["tokens"].shape[1] if "tokens" in some else 0,
            },
        )
    while not (folder / "manifest.json").exists():
        time.sleep(0.1)
    return FeatureStore(folder)


def _some_features(folder: Path, shards: int) -> dict[str, torch.Tensor]:
    """A shard that is not made of skipped items alone: it tells the widths."""
    for shard in range(shards):
        data = map_shard(find_shard(folder, shard))
        if "pooled" in data:
            return data
    raise ValueError(f"{folder}: not one item could be encoded; see the log for why")


def _shards(items: int, config: FeaturesConfig) -> int:
    return -(-items // config.shard_rows)
