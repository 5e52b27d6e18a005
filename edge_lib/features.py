"""The feature store: run a frozen encoder once per item, read what it said many times.

    <cache>/features/<modality>-<fingerprint>/
        shard-00000-1a2b3c4d.safetensors    offsets, pooled, ok, and tokens where they are wanted
        manifest.json                       written last: the store is whole

The fingerprint names everything the features depend on (table, encoder, preprocessing, precision),
so a change of any of them opens another folder. `encode.py` writes stores, `shards.py` their files;
reading maps the shards into memory, and gathers a batch with one index per shard.

An item is a row's image or clip, or one caption of `Table.captions`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from edge_lib.config import ExperimentConfig
from edge_lib.data.speech import RATE
from edge_lib.data.table import Table
from edge_lib.encoded import Encoded
from edge_lib.pretrained import identity
from edge_lib.shards import find_shard, map_shard

if TYPE_CHECKING:  # transformers takes seconds to import, and reading a store needs none of it
    from edge_lib.encoders import Encoder

FORMAT = 2  # raise it when what a shard holds, or how pixels reach the encoder, changes
BLANKS = {"vision": Image.new("RGB", (64, 64)), "audio": np.zeros(RATE, np.float32), "text": ""}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Items:
    """The images, clips or captions of a table, as an encoder takes them."""

    table: Table
    modality: str

    def __len__(self) -> int:
        return len(self.table.items(self.modality))

    def get(self, items: Sequence[int]) -> list:
        """One image, clip or caption each; None where there is none to encode."""
        if self.modality == "text":
            return [self.table.captions[item] for item in items]
        rows = self.table.item_rows(self.modality)[items]
        return self.table.images(rows) if self.modality == "vision" else self.table.clips(rows)

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
        self.cut = np.concatenate([shard["cut"].cpu().numpy() for shard in self.shards])
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

    def __init__(self, items: Items, encoder: "Encoder", augment=None, precision: str = "fp32"):
        self.items, self.encoder, self.augment = items, encoder, augment
        self.precision, self.blank = precision, BLANKS[items.modality]
        self.device = next(encoder.parameters()).device
        self.ok = np.ones(len(items), dtype=bool)  # until an item turns out not to decode

    def __len__(self) -> int:
        return len(self.items)

    def gather(self, items) -> Encoded:
        """(B,) item numbers -> Encoded in float32, of a blank where one does not decode."""
        items = np.asarray(items)
        inputs = self.items.get(items)
        self.ok[items] = [item is not None for item in inputs]
        augmented = (self.augment(x) if self.augment and x is not None else x for x in inputs)
        inputs = [self.blank if x is None else x for x in augmented]
        return encode(self.encoder, self.encoder.prepare(inputs), self.precision)


def encode(encoder: "Encoder", inputs: dict[str, torch.Tensor], precision: str) -> Encoded:
    """Run a frozen encoder on prepared inputs; features come out in float32."""
    device = next(encoder.parameters()).device
    inputs = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
        encoded = encoder(**inputs)
    return Encoded(encoded.tokens.float(), encoded.mask, encoded.pooled.float())


def open_store(config: ExperimentConfig, modality: str, table: Table, device="cpu") -> FeatureStore:
    """The store that `encode_tables` made of this table's modality."""
    return FeatureStore(store_folder(config, modality, table), device)


def store_folder(config: ExperimentConfig, modality: str, table: Table) -> Path:
    modality_config = config.modalities[modality]
    facts = {
        "format": FORMAT,
        "table": table.fingerprint_of(modality),
        "encoder": identity(modality_config),
        "precision": config.features.precision,
        "dtype": config.features.dtype,
        "shard_rows": config.features.shard_rows,
        "tokens": modality_config.pooler != "pooled",
    }
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return config.data.cache_dir / "features" / f"{modality}-{name}"
