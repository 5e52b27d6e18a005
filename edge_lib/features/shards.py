"""Shard files of the feature store. A shard appears whole or not at all; its name has its checksum.

A shard holds `valid` and `truncated` (n,) bool, `offsets` (n + 1,), `pooled` (n, P) and, where
tokens are kept, `tokens` (offsets[-1], D): those of item i are tokens[offsets[i] : offsets[i + 1]].
An item that did not decode has valid False, zeros as pooled and no tokens; a shard of such items
alone lacks `pooled` and `tokens`. truncated: the item was longer than the encoder's window.
"""

import logging
import os
import zlib
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

log = logging.getLogger(__name__)


def save_shard(
    folder: Path, shard: int, pooled: list, tokens: list | None, truncated: list[bool]
) -> None:
    """Write a shard from a pooled vector (P,) and tokens (T, D) of each item, None if skipped."""
    valid = torch.tensor([vector is not None for vector in pooled])
    lengths = torch.zeros(len(pooled), dtype=torch.long)
    data = {"valid": valid, "truncated": torch.tensor(truncated)}
    if valid.any():
        zeros = torch.zeros_like(next(vector for vector in pooled if vector is not None))
        data["pooled"] = torch.stack([zeros if vector is None else vector for vector in pooled])
        if tokens:
            lengths = torch.tensor([0 if t is None else len(t) for t in tokens])
            data["tokens"] = torch.cat([t for t in tokens if t is not None])
    data["offsets"] = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".shard-{shard:05d}.{os.getpid()}"
    try:
        save_file(data, temporary)
        temporary.replace(folder / f"shard-{shard:05d}-{_crc32(temporary)}.safetensors")
    finally:
        temporary.unlink(missing_ok=True)


def map_shard(path: Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """The shard's tensors, memory-mapped on the CPU or copied to another device."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def find_shard(folder: Path, shard: int) -> Path | None:
    return next(folder.glob(f"shard-{shard:05d}-*.safetensors"), None)


def is_whole(folder: Path, shard: int) -> bool:
    """Whether the shard exists and matches its checksum; one that does not match is removed."""
    path = find_shard(folder, shard)
    if path is None:
        return False
    if path.stem.endswith(_crc32(path)):
        return True
    log.warning("%s does not match its checksum and is encoded again", path)
    path.unlink(missing_ok=True)
    return False


def _crc32(path: Path) -> str:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
