"""Writes the feature store of one modality of a table, shard by shard."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from edge_lib.config import ConfigError, FeatureSpec
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.features.encoder import Encoder, run_encoder
from edge_lib.features.items import Items
from edge_lib.features.reading import BatchReader, PreparedBatch
from edge_lib.features.shard_report import ShardReport
from edge_lib.features.shard_rows import ShardRows
from edge_lib.features.shards import find_shard, is_whole, map_shard, save_shard
from edge_lib.features.store import FeatureStore, store_folder
from edge_lib.runs.files import write_json
from edge_lib.runs.progress import progress_bar
from edge_lib.training.device import process_rank


@dataclass
class StoreWriter:
    """The store of one modality of a table, complete or not."""

    spec: FeatureSpec
    modality: str
    table: Table

    @property
    def name(self) -> str:
        return f"{self.table.name} {self.modality}"

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

    def shard_range(self, shard: int) -> tuple[int, int]:
        """The first item of a shard, and the one after its last."""
        rows = self.spec.features.shard_rows
        return shard * rows, min((shard + 1) * rows, len(self.items))

    def write(self, shards: Sequence[int], encoder: Encoder) -> None:
        """Encode the items of some shards and write their files, with a bar of this process."""
        rank, world_size = process_rank()
        name = self.name if world_size == 1 else f"{self.name}, rank {rank} of {world_size}"
        total = sum(stop - start for start, stop in map(self.shard_range, shards))
        with progress_bar(name, total, " items") as bar:
            for shard in shards:
                self._write(shard, encoder, bar)

    def _write(self, shard: int, encoder: Encoder, bar: tqdm) -> None:
        config = self.spec.features
        start, stop = self.shard_range(shard)
        started = time.perf_counter()
        rows, report = ShardRows(start, stop, config), ShardReport()
        batches = self.items.batches(start, stop, config.batch_size)
        reader = BatchReader(self.items, encoder, batches)
        loader = DataLoader(reader, batch_size=None, num_workers=config.num_workers)
        for numbers, batch in zip(batches, loader, strict=True):
            self._encode(batch, encoder, rows)
            report.add(batch, self.items)
            bar.update(len(numbers))
        save_shard(self.folder, shard, rows.tensors() | {"report": report.to_bytes()})
        speed = (stop - start) / (time.perf_counter() - started)
        count = f"items {start:,}-{stop:,} of {len(self.items):,}, {speed:,.0f}/s"
        print(f"{self.name}: {count}", flush=True)

    def _encode(self, batch: PreparedBatch, encoder: Encoder, rows: ShardRows) -> None:
        """Encode a batch; items with an output that cannot be stored join its skipped ones."""
        if not batch.items:
            return
        config, keeps_tokens = self.spec.features, self.spec.modalities[self.modality].keeps_tokens
        output = run_encoder(encoder, batch.inputs, config.precision, config.tokens.window)
        rows.truncate(batch.truncated)
        if not keeps_tokens:
            output = EncoderOutput(None, None, output.pooled)
        batch.skipped |= rows.add(batch.items, output)
        if keeps_tokens:
            check_budget(rows.token_bytes_per_item * len(self.items), config.max_gb)

    def finish(self) -> None:
        """Wait for the shards of other processes; process 0 then writes the manifest."""
        rank, world_size = process_rank()
        # process 0 completes the store, so it checks the shards of other processes as well
        ready = is_whole if rank == 0 and world_size > 1 else find_shard
        for shard in range(self.num_shards):
            while not ready(self.folder, shard):
                time.sleep(0.5)
        if rank == 0:
            self._complete()
        while not (self.folder / "manifest.json").exists():
            time.sleep(0.1)

    def _complete(self) -> None:
        """Write what the store holds, and print what was left out or changed."""
        report = ShardReport()
        for shard in range(self.num_shards):
            report.load(map_shard(find_shard(self.folder, shard))["report"])
        report.write(self.folder / "skipped.csv")
        for line in report.summary():
            print(f"{self.name}: {line}", flush=True)
        write_json(self.folder / "manifest.json", self._manifest(report))

    def _manifest(self, report: ShardReport) -> dict:
        example = self._shard_with_features(report)
        return {
            "table": self.table.name,
            "items": len(self.items),
            "shards": self.num_shards,
            "shard_rows": self.spec.features.shard_rows,
            "pooled_width": example["pooled"].shape[1],
            "token_width": example["tokens"].shape[1] if "tokens" in example else 0,
        }

    def _shard_with_features(self, report: ShardReport) -> dict[str, torch.Tensor]:
        """A shard with at least one encoded item: it has the widths."""
        for shard in range(self.num_shards):
            data = map_shard(find_shard(self.folder, shard))
            if "pooled" in data:
                return data
        reasons = "; ".join(report.summary())
        raise ConfigError(f"{self.name}: no item could be encoded: {reasons}")

    def counts(self) -> dict[str, int]:
        """Items, skipped items and truncated items of the complete store."""
        store = FeatureStore(self.folder)
        skipped = len(store.valid) - int(store.valid.sum())
        if self.modality == "text":
            skipped += len(self.table.skipped["no caption"])
        truncated = int(store.truncated.sum())
        return {"items": len(store), "skipped": skipped, "truncated": truncated}


def check_budget(num_bytes: float, max_gb: float) -> None:
    """ConfigError for a token store that would exceed its limit, before the disk is full."""
    if num_bytes > max_gb * 1e9:
        raise ConfigError(
            f"the tokens need about {num_bytes / 1e9:,.1f} GB, over features.max_gb={max_gb}; "
            "raise it, set features.tokens={window: 2, dtype: int8} (about 1/8), use pooler "
            "'pooled', or set features.online=true train.num_workers=0"
        )
