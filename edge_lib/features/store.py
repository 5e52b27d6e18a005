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
from pathlib import Path

import numpy as np
import torch

from edge_lib.config import ExperimentConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.features.shards import find_shard, map_shard
from edge_lib.features.weights import encoder_fingerprint

FORMAT = 2  # raise it when what a shard holds, or how pixels reach the encoder, changes


class FeatureStore:
    """Features of all items of one modality of one table, in the order of the items."""

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.shard_rows = self.manifest["shard_rows"]
        paths = (find_shard(folder, i) for i in range(self.manifest["shards"]))
        self.shards = [map_shard(path, device) for path in paths]
        self.valid = np.concatenate([shard["valid"].cpu().numpy() for shard in self.shards])
        self.truncated = np.concatenate([shard["truncated"].cpu().numpy() for shard in self.shards])
        self.device = torch.device(device)

    def __len__(self) -> int:
        return self.manifest["items"]

    @property
    def widths(self) -> tuple[int, int]:
        """Width of a token (0 where none are kept) and of the pooled vector."""
        return self.manifest["token_width"], self.manifest["pooled_width"]

    def gather(self, items) -> EncoderOutput:
        """(B,) item numbers -> EncoderOutput in float32; an item that was skipped is all zeros."""
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
            return EncoderOutput(None, None, pooled)
        slots = torch.arange(max(1, int(lengths.max())), device=self.device)
        mask = slots < lengths[:, None]
        tokens = torch.zeros(*mask.shape, self.manifest["token_width"], device=self.device)
        for where, data, starts in parts:
            wanted = (starts[:, None] + slots).clamp_(max=len(data["tokens"]) - 1)
            tokens[where] = data["tokens"][wanted].float()
        return EncoderOutput(tokens.masked_fill_(~mask[..., None], 0), mask, pooled)


def open_store(config: ExperimentConfig, modality: str, table: Table, device="cpu") -> FeatureStore:
    """The store that `extract_features` made of this table's modality."""
    return FeatureStore(store_folder(config, modality, table), device)


def store_folder(config: ExperimentConfig, modality: str, table: Table) -> Path:
    modality_config = config.modalities[modality]
    facts = {
        "format": FORMAT,
        "table": table.item_fingerprint(modality),
        "encoder": encoder_fingerprint(modality_config),
        "precision": config.features.precision,
        "dtype": config.features.dtype,
        "shard_rows": config.features.shard_rows,
        "tokens": modality_config.pooler != "pooled",
    }
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return config.data.cache_dir / "features" / f"{modality}-{name}"


def open_stores(
    config: ExperimentConfig, table: Table, device: str | torch.device = "cpu"
) -> dict[str, FeatureStore]:
    """The store of each of the experiment's modalities."""
    return {name: open_store(config, name, table, device) for name in config.modalities}
