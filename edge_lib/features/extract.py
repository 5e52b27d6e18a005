"""Make feature stores: run each frozen encoder once over each table, in shards, on all processes.

Of W processes, process r encodes every W-th shard. Files are the only thing they share, so that no
collective can time out while one of them still has hours to go.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock
from torch.utils.data import DataLoader

from edge_lib.config import ConfigError, ExperimentConfig, FeaturesConfig, ModalityConfig
from edge_lib.features.encoder import encode
from edge_lib.features.items import Items
from edge_lib.features.shards import find_shard, is_whole, map_shard, save_shard
from edge_lib.features.store import FeatureStore, store_folder
from edge_lib.runs.files import write_json
from edge_lib.sources import load_table, splits
from edge_lib.training.device import local_device

if TYPE_CHECKING:
    from edge_lib.features.encoder import Encoder


log = logging.getLogger(__name__)


def extract_features(
    config: ExperimentConfig, only: Sequence[str] = ()
) -> dict[str, dict[str, int]]:
    """Make every store the experiment reads, or those of the splits `only` names. Run it through
    `launch`: processes share the work.

    Returns {"train/vision": {"items": n, "skipped": k, "truncated": c}, ...}; what is cut is longer than
    the encoder's window.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return _extract_features(config, only)
    config.data.cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(config.data.cache_dir / "encode.lock"):  # points of a sweep: the first does it
        return _extract_features(config, only)


def _extract_features(config: ExperimentConfig, only: Sequence[str]) -> dict[str, dict[str, int]]:
    summary = {}
    online = {"train"} if config.features.online else set()
    wanted = [split for split in only or splits(config.data) if split not in online]
    tables = {split: load_table(config.data, split) for split in wanted}
    for modality, modality_config in config.modalities.items():
        encoder, keep_tokens = None, modality_config.pooler != "pooled"
        items = {split: Items(table, modality) for split, table in tables.items()}
        folders = {s: store_folder(config, modality, table) for s, table in tables.items()}
        for split, shard in missing_shards(folders, items, config.features):
            encoder = encoder or _load_encoder(modality, modality_config)
            how = (encoder, config.features, keep_tokens)
            write_shard(folders[split], shard, items[split], *how)
        for split, table in tables.items():
            store = finish_store(folders[split], items[split], config.features)
            skipped = len(store.valid) - int(store.valid.sum())
            if modality == "text":
                skipped += len(table.skipped["no caption"])
            counts = {
                "items": len(store),
                "skipped": skipped,
                "truncated": int(store.truncated.sum()),
            }
            summary[f"{split}/{modality}"] = counts
    return summary


def _load_encoder(modality: str, config: ModalityConfig) -> "Encoder":
    from edge_lib.features.encoders import (
        load_encoder,  # seconds, for transformers: not if all is there
    )

    return load_encoder(modality, config).to(local_device())


def missing_shards(
    folders: dict[str, Path], items: dict[str, Items], config: FeaturesConfig
) -> Iterator[tuple[str, int]]:
    """This process's shards, as split and number, that are not there or not what they say."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    owners = {folder: split for split, folder in folders.items()}  # captions may be shared
    shards = [(s, i) for s in owners.values() for i in range(_shards(len(items[s]), config))]
    return ((s, i) for s, i in shards[rank::world] if not is_whole(folders[s], i))


def write_shard(
    folder: Path,
    shard: int,
    items: Items,
    encoder: "Encoder",
    config: FeaturesConfig,
    keep_tokens: bool,
) -> None:
    """Encode one shard's items and put the file in place."""
    start = shard * config.shard_rows
    stop = min(start + config.shard_rows, len(items))
    dtype = getattr(torch, config.dtype)
    pooled, tokens, cut = ([none] * (stop - start) for none in (None, None, False))
    batches = items.batches(start, stop, config.batch_size)
    reader = _Reader(items, encoder, batches)
    loader = DataLoader(reader, batch_size=None, num_workers=config.num_workers)
    started, values, done = time.perf_counter(), 0, 0
    for batch, too_long, inputs in loader:
        if not len(batch):
            continue
        for item in too_long:
            cut[item - start] = True
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
    save_shard(folder, shard, pooled, tokens if keep_tokens else None, cut)
    speed = (stop - start) / (time.perf_counter() - started)
    name = f"{items.table.name} {items.modality}"
    if any(cut):
        log.warning("%s: %d items are longer than the encoder's window; cut", name, sum(cut))
    print(f"{name}: items {start:,}-{stop:,} of {len(items):,}, {speed:,.0f}/s", flush=True)


@dataclass
class _Reader(torch.utils.data.Dataset):
    """Batches of items that decode, prepared for the encoder; runs in loader processes."""

    items: Items
    encoder: "Encoder"
    batches: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[list[int], list[int], dict]:
        batch = self.batches[number].tolist()
        inputs = zip(batch, self.items.get(batch), strict=True)
        good = {item: value for item, value in inputs if value is not None}
        too_long = [item for item, value in good.items() if self.encoder.truncates(value)]
        return list(good), too_long, self.encoder.prepare([*good.values()]) if good else {}


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
