"""Shard files of the feature store. A shard appears whole or not at all; its name has its checksum.

A shard holds `valid` and `truncated` (n,) bool, `offsets` (n + 1,), `pooled` (n, P) and, where
tokens are kept, `tokens` (offsets[-1], D): those of item i are tokens[offsets[i] : offsets[i + 1]].
Tokens of int8 are multiplied by their `scales` (offsets[-1],). `positions` (T,): see
`EncoderOutput`. An item that was skipped has valid False, zeros as pooled and no tokens; a shard of
such items alone lacks `pooled` and `tokens`. truncated: the item was longer than the encoder's
window. `report`: JSON of a `ShardReport`, as bytes.
"""

import logging
import os
import secrets
import zlib
from pathlib import Path

import torch
from safetensors import safe_open

from edge_lib.runs.files import full_disk_errors
from edge_lib.runs.tensors import save_tensors

log = logging.getLogger(__name__)


def save_shard(folder: Path, shard: int, tensors: dict[str, torch.Tensor]) -> None:
    """Write a shard whole or not at all; ConfigError names it if the disk is full. A process that
    was suspended may find that another has written it, and removed its file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".shard-{shard:05d}.{secrets.token_hex(4)}"
    try:
        with full_disk_errors(folder / f"shard-{shard:05d}"):
            save_tensors(tensors, temporary)
        temporary.replace(folder / f"shard-{shard:05d}-{_crc32(temporary)}.safetensors")
    except FileNotFoundError:
        if shard not in shard_names(folder):
            raise
    finally:
        temporary.unlink(missing_ok=True)


def map_shard(path: Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """The shard's tensors, memory-mapped on the CPU or copied to another device."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def shard_names(folder: Path) -> dict[int, str]:
    """Files of the shards that exist, by number; of two versions of one, the same on every call."""
    names = os.listdir(folder) if folder.exists() else []  # many: a Path each would take seconds
    shards = sorted(name for name in names if name.startswith("shard-"))
    return {int(name.split("-")[1]): name for name in shards}


def has_shard(folder: Path, shard: int) -> bool:
    """`shard in shard_names(folder)`, of which the others are not looked at."""
    return any(name.startswith(f"shard-{shard:05d}-") for name in os.listdir(folder))


def is_whole(path: Path) -> bool:
    """Whether a shard matches its checksum; one that does not is removed."""
    try:
        if path.stem.endswith(_crc32(path)):
            return True
    except FileNotFoundError:  # another process has just removed it
        return False
    log.warning("%s does not match its checksum and is encoded again", path)
    path.unlink(missing_ok=True)
    return False


def _crc32(path: Path) -> str:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            value = zlib.crc32(block, value)
    return f"{value:08x}"
