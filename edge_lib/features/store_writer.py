"""Writes the feature store of one modality of a table, shard by shard."""

import logging
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from edge_lib.config import ConfigError, FeatureSpec
from edge_lib.data.table import Table
from edge_lib.features.encoder import Encoder, run_encoder
from edge_lib.features.items import Items
from edge_lib.features.shards import find_shard, is_whole, map_shard, save_shard
from edge_lib.features.store import FeatureStore, store_folder
from edge_lib.runs.files import write_json
from edge_lib.training.device import process_rank

log = logging.getLogger(__name__)


@dataclass
class StoreWriter:
    """The store of one modality of a table, complete or not."""

    spec: FeatureSpec
    modality: str
    table: Table

    @cached_property
    def folder(self) -> Path:
        return store_folder(self.spec, self.modality, self.table)

    @cached_property
    def items(self) -> Items:
        return Items(self.table, self.modality)

    @property
    def num_shards(self) -> int:
        return -(-len(self.items) // self.spec.features.shard_rows)

    def has(self, shard: int) -> bool:
        """Whether a shard exists and matches its checksum."""
        return is_whole(self.folder, shard)

    def is_complete(self) -> bool:
        """Whether all shards exist and match their checksums."""
        exists = (self.folder / "manifest.json").exists()
        return exists and all(map(self.has, range(self.num_shards)))

    def write(self, shard: int, encoder: Encoder) -> None:
        """Encode the items of one shard and write its file."""
        config = self.spec.features
        start = shard * config.shard_rows
        stop = min(start + config.shard_rows, len(self.items))
        started = time.perf_counter()
        rows = _ShardRows(start, stop, getattr(torch, config.dtype))
        reader = _Reader(self.items, encoder, self.items.batches(start, stop, config.batch_size))
        loader = DataLoader(reader, batch_size=None, num_workers=config.num_workers)
        for items, truncated, inputs in loader:
            if not len(items):
                continue
            rows.truncate(truncated)
            output = run_encoder(encoder, inputs, config.precision).to("cpu")
            rows.add_pooled(items, output.pooled)
            if self.spec.modalities[self.modality].keeps_tokens:
                rows.add_tokens(items, output.tokens, output.mask)
                check_budget(rows.token_bytes_per_item * len(self.items), config.max_gb)
        save_shard(self.folder, shard, rows.pooled, rows.tokens, rows.truncated)
        self._report(start, stop, sum(rows.truncated), time.perf_counter() - started)

    def _report(self, start: int, stop: int, truncated: int, seconds: float) -> None:
        name = f"{self.table.name} {self.modality}"
        if truncated:
            log.warning("%s: %d items exceed the encoder's window, truncated", name, truncated)
        speed = (stop - start) / seconds
        print(
            f"{name}: items {start:,}-{stop:,} of {len(self.items):,}, {speed:,.0f}/s", flush=True
        )

    def finish(self) -> None:
        """Wait for the shards of other processes; process 0 then writes the manifest."""
        rank, world_size = process_rank()
        # process 0 completes the store, so it checks the shards of other processes as well
        ready = is_whole if rank == 0 and world_size > 1 else find_shard
        for shard in range(self.num_shards):
            while not ready(self.folder, shard):
                time.sleep(0.5)
        if rank == 0:
            write_json(self.folder / "manifest.json", self._manifest())
        while not (self.folder / "manifest.json").exists():
            time.sleep(0.1)

    def _manifest(self) -> dict:
        example = self._shard_with_features()
        return {
            "table": self.table.name,
            "items": len(self.items),
            "shards": self.num_shards,
            "shard_rows": self.spec.features.shard_rows,
            "pooled_width": example["pooled"].shape[1],
            "token_width": example["tokens"].shape[1] if "tokens" in example else 0,
        }

    def _shard_with_features(self) -> dict[str, torch.Tensor]:
        """A shard with at least one encoded item: it has the widths."""
        for shard in range(self.num_shards):
            data = map_shard(find_shard(self.folder, shard))
            if "pooled" in data:
                return data
        raise ValueError(f"{self.folder}: no item could be encoded; see the log for the reasons")

    def counts(self) -> dict[str, int]:
        """Items, skipped items and truncated items of the complete store."""
        store = FeatureStore(self.folder)
        skipped = len(store.valid) - int(store.valid.sum())
        if self.modality == "text":
            skipped += len(self.table.skipped["no caption"])
        truncated = int(store.truncated.sum())
        return {"items": len(store), "skipped": skipped, "truncated": truncated}


class _ShardRows:
    """The outputs for each item of a shard; None for items that were skipped."""

    def __init__(self, start: int, stop: int, dtype: torch.dtype):
        self.start, self.dtype = start, dtype
        self.pooled: list = [None] * (stop - start)
        self.tokens: list | None = None
        self.truncated = [False] * (stop - start)
        self.token_values = self.items_with_tokens = 0

    def truncate(self, items: list[int]) -> None:
        for item in items:
            self.truncated[item - self.start] = True

    def add_pooled(self, items: list[int], pooled: torch.Tensor) -> None:
        for item, vector in zip(items, pooled.to(self.dtype), strict=True):
            self.pooled[item - self.start] = vector

    def add_tokens(self, items: list[int], tokens: torch.Tensor, mask: torch.Tensor) -> None:
        self.tokens = self.tokens or [None] * len(self.pooled)
        for item, sequence, valid in zip(items, tokens.to(self.dtype), mask, strict=True):
            self.tokens[item - self.start] = sequence[valid]
        self.token_values += int(mask.sum()) * tokens.shape[-1]
        self.items_with_tokens += len(items)

    @property
    def token_bytes_per_item(self) -> float:
        return self.token_values / self.items_with_tokens * self.dtype.itemsize


@dataclass
class _Reader(Dataset):
    """Batches of items that decode, prepared for the encoder; runs in loader processes."""

    items: Items
    encoder: Encoder
    batches: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[list[int], list[int], dict]:
        """Item numbers, those of truncated items, and inputs of the encoder."""
        batch = self.batches[number].tolist()
        pairs = zip(batch, self.items.get(batch), strict=True)
        decoded = {item: value for item, value in pairs if value is not None}
        truncated = [item for item, value in decoded.items() if self.encoder.truncates(value)]
        inputs = self.encoder.prepare([*decoded.values()]) if decoded else {}
        return list(decoded), truncated, inputs


def check_budget(num_bytes: float, max_gb: float) -> None:
    """ConfigError for a token store that would exceed its limit, before the disk is full."""
    if num_bytes > max_gb * 1e9:
        raise ConfigError(
            f"the tokens need about {num_bytes / 1e9:,.1f} GB, over features.max_gb={max_gb}; "
            "raise it, use pooler 'pooled', or set features.online=true train.num_workers=0"
        )
