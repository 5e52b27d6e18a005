"""The feature store: run a frozen encoder once per item, read what it said many times.

    <cache>/features/<modality>-<fingerprint>/
        shard-00000-1a2b3c4d.safetensors    offsets, pooled, ok, and tokens where they are wanted
        manifest.json                       written last: the store is whole

1. The fingerprint names everything the features depend on (table, encoder, preprocessing,
   precision), so a change of any of them opens another folder.
2. Items are cut into shards; of W processes, process r encodes every W-th. A shard appears under
   its name at once or not at all, so a killed run goes on with the first one missing.
3. A shard's name ends in the CRC-32 of its bytes. One that does not match is encoded again.
4. Reading maps the shards into memory; a batch is gathered with one index per shard.

An item is a row's image, or one caption of `Table.captions`.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from edge_lib.config import ConfigError, ExperimentConfig, FeaturesConfig
from edge_lib.data.sources import load_table, splits
from edge_lib.data.table import Table
from edge_lib.encoders import Encoded, Encoder, identity, load_encoder
from edge_lib.runs import write_json
from edge_lib.shards import find_shard, is_whole, map_shard, save_shard

FORMAT = 1  # raise it when what a shard holds, or how pixels reach the encoder, changes
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Items:
    """The images or the captions of a table, as an encoder takes them."""

    table: Table
    modality: str

    def __len__(self) -> int:
        return len(self.table if self.modality == "vision" else self.table.captions)

    def get(self, items: Sequence[int]) -> list:
        """One image or caption each; None where there is none to encode."""
        if self.modality == "vision":
            return self.table.images(items)
        return [self.table.captions[item] for item in items]

    def batches(self, start: int, stop: int, size: int) -> list[np.ndarray]:
        """Item numbers from start to stop in batches; captions by length, to pad little."""
        order = np.arange(start, stop)
        if self.modality == "text":
            lengths = [len(self.table.captions[item]) for item in order]
            order = order[np.argsort(lengths, kind="stable")]
        return [order[i : i + size] for i in range(0, len(order), size)]


class FeatureStore:
    """Features of all items of one modality of one table, in the order of the items."""

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.shard_rows = self.manifest["shard_rows"]
        paths = (find_shard(folder, i) for i in range(self.manifest["shards"]))
        self.shards = [map_shard(path, device) for path in paths]
        self.ok = np.concatenate([shard["ok"].cpu().numpy() for shard in self.shards])
        self.device = torch.device(device)

    def __len__(self) -> int:
        return self.manifest["items"]

    @property
    def widths(self) -> tuple[int, int]:
        """Width of a token (0 where none are kept) and of the pooled vector."""
        return self.manifest["token_width"], self.manifest["pooled_width"]

    def gather(self, items) -> Encoded:
        """(B,) item numbers -> Encoded in float32; an item that was skipped is all zeros."""
        items = torch.as_tensor(items, device=self.device)
        shard, row = items // self.shard_rows, items % self.shard_rows
        pooled = torch.zeros(len(items), self.manifest["pooled_width"], device=self.device)
        lengths = torch.zeros(len(items), dtype=torch.long, device=self.device)
        parts = []
        for number in shard.unique().tolist():
            where = (shard == number).nonzero().squeeze(1)
            data = self.shards[number]
            if "pooled" not in data:
                continue
            pooled[where] = data["pooled"][row[where]].float()
            lengths[where] = (data["offsets"][1:] - data["offsets"][:-1])[row[where]]
            parts.append((where, data, data["offsets"][row[where]]))
        if not self.manifest["token_width"]:
            return Encoded(None, None, pooled)
        slots = torch.arange(max(1, int(lengths.max())), device=self.device)
        mask = slots < lengths[:, None]
        tokens = torch.zeros(*mask.shape, self.manifest["token_width"], device=self.device)
        for where, data, starts in parts:
            wanted = (starts[:, None] + slots).clamp_(max=len(data["tokens"]) - 1)
            tokens[where] = data["tokens"][wanted].float()
        return Encoded(tokens.masked_fill_(~mask[..., None], 0), mask, pooled)


class OnlineFeatures:
    """The same interface as `FeatureStore`, encoding what is asked for when it is asked for."""

    def __init__(self, items: Items, encoder: Encoder, augment=None, precision: str = "fp32"):
        self.items, self.encoder, self.augment = items, encoder, augment
        self.precision = precision
        self.device = next(encoder.parameters()).device
        self.ok = np.ones(len(items), dtype=bool)  # until an item turns out not to decode

    def __len__(self) -> int:
        return len(self.items)

    def gather(self, items) -> Encoded:
        """(B,) item numbers -> Encoded in float32; an item that does not decode is all zeros."""
        items = np.asarray(items)
        inputs = self.items.get(items)
        self.ok[items] = [item is not None for item in inputs]
        good = torch.from_numpy(self.ok[items])
        if not good.any():
            raise ValueError(f"none of {len(items)} items can be encoded: {items[:8]}")
        inputs = [self.augment(x) if self.augment else x for x in inputs if x is not None]
        encoded = encode(self.encoder, self.encoder.prepare(inputs), self.precision)
        return Encoded(*(_scatter(part, good) for part in vars(encoded).values()))


def encode(encoder: Encoder, inputs: dict[str, torch.Tensor], precision: str) -> Encoded:
    """Run a frozen encoder on prepared inputs; features come out in float32."""
    device = next(encoder.parameters()).device
    inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
        encoded = encoder(**inputs)
    return Encoded(encoded.tokens.float(), encoded.mask, encoded.pooled.float())


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
                encoder = encoder or _on_device(load_encoder(modality, modality_config))
                keep_tokens = modality_config.pooler != "pooled"
                write_shard(folder, shard, items, encoder, config.features, keep_tokens)
            store = finish_store(folder, items, config.features)
            skipped = len(store.ok) - int(store.ok.sum())
            summary[f"{split}/{modality}"] = {"items": len(store), "skipped": skipped}
    return summary


def open_store(config: ExperimentConfig, modality: str, table: Table, device="cpu") -> FeatureStore:
    """The store that `encode_tables` made of this table's modality."""
    return FeatureStore(store_folder(config, modality, table), device)


def store_folder(config: ExperimentConfig, modality: str, table: Table) -> Path:
    modality_config = config.modalities[modality]
    facts = {
        "format": FORMAT,
        "table": table.fingerprint,
        "encoder": identity(modality_config),
        "precision": config.features.precision,
        "dtype": config.features.dtype,
        "shard_rows": config.features.shard_rows,
        "tokens": modality_config.pooler != "pooled",
    }
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return config.data.cache_dir / "features" / f"{modality}-{name}"


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
    progress = tqdm(loader, f"{items.table.name} {items.modality} shard {shard}", mininterval=5)
    for batch, inputs in progress:
        if not len(batch):
            continue
        encoded = encode(encoder, inputs, config.precision)
        for i, item in enumerate(batch):
            pooled[item - start] = encoded.pooled[i].to("cpu", dtype)
            if keep_tokens:
                tokens[item - start] = encoded.tokens[i][encoded.mask[i]].to("cpu", dtype)
        if keep_tokens:
            _check_budget(encoded, len(items), dtype, config.max_gb)
    save_shard(folder, shard, pooled, tokens if keep_tokens else None)


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


def _check_budget(encoded: Encoded, items: int, dtype: torch.dtype, max_gb: float) -> None:
    per_item = float(encoded.mask.sum(1).float().mean()) * encoded.tokens.shape[-1]
    needed = per_item * items * dtype.itemsize / 1e9
    if needed > max_gb:
        raise ConfigError(
            f"tokens of {items:,} items need about {needed:,.1f} GB, over features.max_gb="
            f"{max_gb}; raise it, set features.online=true, or use pooler 'pooled'"
        )


def finish_store(folder: Path, items: Items, config: FeaturesConfig) -> FeatureStore:
    """Wait for the other processes' shards; process 0 then writes the manifest."""
    shards = _shards(len(items), config)
    # files, not a collective: encoding may take hours, and a collective would time out
    while any(find_shard(folder, shard) is None for shard in range(shards)):
        time.sleep(0.5)
    if int(os.environ.get("RANK", 0)) == 0:
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


def _scatter(part: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """Spread the rows of `part` over the places where `good` holds; zeros elsewhere."""
    whole = part.new_zeros(len(good), *part.shape[1:])
    whole[good.to(part.device)] = part
    return whole


def _on_device(encoder: Encoder) -> Encoder:
    if torch.cuda.is_available():
        encoder.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    return encoder
