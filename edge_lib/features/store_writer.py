"""Writes the feature store of one modality of a table, shard by shard, shared by processes."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import torch
from tqdm import tqdm

from edge_lib.config import ConfigError, FeatureSpec
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.features.claims import Claim, Claims
from edge_lib.features.encoder import Encoder, run_encoder
from edge_lib.features.items import Items
from edge_lib.features.reading import BatchLoader, PreparedBatch
from edge_lib.features.shard_report import ShardReport
from edge_lib.features.shard_rows import ShardRows
from edge_lib.features.shards import (
    has_shard,
    is_whole,
    map_shard,
    save_shard,
    shard_names,
)
from edge_lib.features.store import FeatureStore, store_folder
from edge_lib.runs.files import read_json, write_json
from edge_lib.runs.progress import progress_bar

# files of processes that died, and another version of a shard that is there
UNFINISHED = ".claim-", ".clock-", ".manifest.json.", ".shard-", ".skipped.csv.", "shard-"


@dataclass
class StoreWriter:
    """The store of one modality of a table, complete or not."""

    spec: FeatureSpec
    modality: str
    table: Table
    written: set[int] = field(default_factory=set)  # shards, by this process

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

    def is_complete(self) -> bool:
        """Whether all shards match their checksums and the manifest is right; removes all shards
        that do not, and then the manifest, so that the store counts as unfinished.
        """
        whole = self._has_manifest() and self._are_whole(range(self.num_shards))
        whole = whole and self._has_right_manifest()
        if not whole:
            (self.folder / "manifest.json").unlink(missing_ok=True)
        return whole

    def is_ready(self) -> bool:
        """`is_complete` without a look at the content."""
        return self._has_manifest() and not self.missing()

    def shard_range(self, shard: int) -> tuple[int, int]:
        """The first item of a shard, and the one after its last."""
        rows = self.spec.features.shard_rows
        return shard * rows, min((shard + 1) * rows, len(self.items))

    def missing(self) -> list[int]:
        """The shards that do not exist; those that do are not read."""
        names = shard_names(self.folder)
        return [shard for shard in range(self.num_shards) if shard not in names]

    def num_items(self, shards: Iterable[int]) -> int:
        return sum(stop - start for start, stop in map(self.shard_range, shards))

    def write(self, get_encoder: Callable[[], Encoder], take_over: bool = False) -> bool:
        """Encode missing shards until other processes encode the rest; False if they already do.

        take_over: also shards of processes that died. The bar counts the items of all processes.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = self.missing()
        total, claimed = self.num_items(missing), self._claim_shard(missing, take_over)
        if not claimed:
            return False
        workers = self.spec.features.num_workers
        get_loader = cache(lambda: BatchLoader(self.items, get_encoder(), workers))
        with progress_bar(self.name, total, " items") as bar:
            while claimed:
                shard, claim = claimed
                with claim:
                    self._write(shard, get_loader(), claim, bar)
                missing = self.missing()
                bar.update(max(0, total - self.num_items(missing) - bar.n))
                claimed = self._claim_shard(missing, take_over)
        return True

    def _claim_shard(self, missing: list[int], take_over: bool) -> tuple[int, Claim] | None:
        """A missing shard for this process."""
        claims = Claims(self.folder)
        for shard in missing:
            if claim := claims.take(f"{shard:05d}", take_over):
                if not has_shard(self.folder, shard):
                    return shard, claim
                claim.release()  # another process has just written it
        return None

    def _write(self, shard: int, loader: BatchLoader, claim: Claim, bar: tqdm) -> None:
        config = self.spec.features
        start, stop = self.shard_range(shard)
        started = time.perf_counter()
        rows, report = ShardRows(start, stop, config), ShardReport()
        size = loader.encoder.batch_size(config.batch_size)
        batches = self.items.batches(start, stop, size)
        for numbers, batch in zip(batches, loader.load(batches), strict=True):
            self._encode(batch, loader.encoder, rows)
            report.add(batch, self.items)
            bar.update(len(numbers))
            claim.report_progress()
        save_shard(self.folder, shard, rows.tensors() | {"report": report.to_bytes()})
        self.written.add(shard)
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

    def finish(self) -> bool:
        """Whether the store is complete. Completes it if all shards are there, and match their
        checksums, unless another process does.
        """
        if self.is_ready() or self.missing():
            return self.is_ready()
        if not (claim := Claims(self.folder).take("manifest", take_over=True)):
            return False
        with claim:
            others = {*range(self.num_shards)} - self.written
            if not self._has_manifest() and self._are_whole(others, claim):
                self._complete(claim)
        return self._has_manifest()

    def _are_whole(self, shards: Iterable[int], claim: Claim | None = None) -> bool:
        """Whether shards exist and match their checksums; all that do not are removed."""
        names, whole = shard_names(self.folder), True
        for shard in shards:
            whole &= shard in names and is_whole(self.folder / names[shard])
            if claim:
                claim.report_progress()
        return whole

    def holders(self) -> str:
        """The processes that encode shards, in words."""
        return ", ".join(Claims(self.folder).holders()) or "the file system"

    def _has_manifest(self) -> bool:
        return (self.folder / "manifest.json").exists()

    def _has_right_manifest(self) -> bool:
        """Tables of other names may share the store."""
        try:
            manifest = read_json(self.folder / "manifest.json")
        except ConfigError:
            return False
        return manifest | {"table": ""} == self._manifest(ShardReport()) | {"table": ""}

    def _complete(self, claim: Claim) -> None:
        """Write what the store holds, print what was left out or changed, and remove what processes
        that died have left.
        """
        report, names = ShardReport(), shard_names(self.folder)
        for shard in range(self.num_shards):
            report.load(map_shard(self.folder / names[shard])["report"])
        report.write(self.folder / "skipped.csv")
        for line in report.summary():
            print(f"{self.name}: {line}", flush=True)
        manifest = self._manifest(report)
        for name in {*os.listdir(self.folder)} - {*names.values(), claim.path.name}:
            if name.startswith(UNFINISHED):
                (self.folder / name).unlink(missing_ok=True)
        write_json(self.folder / "manifest.json", manifest)

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
        for name in shard_names(self.folder).values():
            data = map_shard(self.folder / name)
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
