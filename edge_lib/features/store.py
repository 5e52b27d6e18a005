"""The feature store: encoder outputs on disk, computed once and read many times.

    <cache>/features/<modality>-<fingerprint>/
        shard-00000-1a2b3c4d.safetensors    valid, truncated, offsets, pooled, tokens if kept
        skipped.csv                         id, reason and error of each item that was skipped
        manifest.json                       written last: the store is complete

The fingerprint covers everything that the features depend on: items, encoder and its weights,
preprocessing, precision, reduction of tokens. A change of any of them opens another folder.
`store_writer.py` writes it; reading maps the shards into memory and gathers a batch with one index
per shard. An item is a distinct image, a row's clip, or a caption.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from edge_lib.config import FeatureSpec
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.data.table import Table
from edge_lib.features.shards import map_shard, shard_names
from edge_lib.features.weights import encoder_fingerprint
from edge_lib.sources.digests import item_fingerprint

# Raise it when the content of shards, or what happens to items before encoding, changes. Rounding
# in the last bits, as other batches or layouts of the same computation give, does not count.
FORMAT = 4


class FeatureStore:
    """Features of all items of one modality of a table, by item number."""

    def __init__(self, folder: Path, device: str | torch.device = "cpu"):
        self.folder = folder
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.shard_rows = self.manifest["shard_rows"]
        names = shard_names(folder)
        self.shards = [map_shard(folder / names[i], device) for i in range(self.manifest["shards"])]
        self.valid = np.concatenate([shard["valid"].cpu().numpy() for shard in self.shards])
        self.truncated = np.concatenate([shard["truncated"].cpu().numpy() for shard in self.shards])
        positions = (shard["positions"] for shard in self.shards if "positions" in shard)
        self.positions = next(positions, None)  # of the tokens, the same for all items
        self.device = torch.device(device)

    def __len__(self) -> int:
        return self.manifest["items"]

    @property
    def widths(self) -> tuple[int, int]:
        """Width of a token (0 if none are kept) and of the pooled vector."""
        return self.manifest["token_width"], self.manifest["pooled_width"]

    def gather(self, items) -> EncoderOutput:
        """(B,) item numbers -> float32 output; zeros for an item that was skipped."""
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
            positions = (starts[:, None] + slots).clamp_(max=len(data["tokens"]) - 1)
            tokens[where] = data["tokens"][positions].float()
            if "scales" in data:
                tokens[where] *= data["scales"][positions].float()[..., None]
        tokens.masked_fill_(~mask[..., None], 0)
        return EncoderOutput(tokens, mask, pooled, positions=self._positions(mask.shape[1]))

    def _positions(self, count: int) -> torch.Tensor | None:
        """Those of the first tokens; skipped items alone have a single, masked one."""
        return None if self.positions is None else self.positions[:count]


def store_folder(spec: FeatureSpec, modality: str, table: Table) -> Path:
    """Where the features of a table's modality are stored."""
    config, features = spec.modalities[modality], spec.features
    facts = {
        "format": FORMAT,
        "items": item_fingerprint(table, modality, spec.cache_dir),
        "encoder": encoder_fingerprint(config.encoder_config),
        "precision": features.precision,
        "dtype": features.dtype,
        "shard_rows": features.shard_rows,
        "tokens": config.keeps_tokens and features.tokens.model_dump(),
    }
    if features.backend != "torch":
        facts["backend"] = features.backend
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return spec.cache_dir / "features" / f"{modality}-{name}"


def open_store(
    spec: FeatureSpec, modality: str, table: Table, device: str | torch.device = "cpu"
) -> FeatureStore:
    """The store of one modality, written earlier by `extract_features`."""
    return FeatureStore(store_folder(spec, modality, table), device)


def open_stores(
    spec: FeatureSpec, table: Table, device: str | torch.device = "cpu"
) -> dict[str, FeatureStore]:
    """The store of each modality of the spec."""
    return {name: open_store(spec, name, table, device) for name in spec.modalities}


def store_names(spec: FeatureSpec, *tables: Table) -> list[str]:
    """Names of the stores of tables, which identify their content."""
    return [store_folder(spec, name, table).name for table in tables for name in spec.modalities]
