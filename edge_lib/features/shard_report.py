"""Which items of a shard, or of a whole store, were skipped, truncated or put over white."""

import csv
import json
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from edge_lib.data.skipped import skip_line
from edge_lib.features.items import Items
from edge_lib.features.reading import PreparedBatch
from edge_lib.runs.files import whole_file


@dataclass
class ShardReport:
    """Skipped items as (id, reason, error), and numbers of truncated and of transparent items."""

    skipped: list[tuple[str, str, str]] = field(default_factory=list)
    truncated: int = 0
    transparent: int = 0

    def add(self, batch: PreparedBatch, items: Items) -> None:
        for number, own in batch.skipped.items():
            self.skipped.append((items.count_skipped(number, own), own.reason, own.error))
        self.truncated += len(batch.truncated)
        self.transparent += batch.transparent

    def to_bytes(self) -> torch.Tensor:
        """JSON as a tensor of bytes, to be stored in a shard."""
        return torch.frombuffer(bytearray(json.dumps(asdict(self)), "utf-8"), dtype=torch.uint8)

    def load(self, content: torch.Tensor) -> None:
        """Add the report of a shard, from `to_bytes`."""
        for name, value in json.loads(content.numpy().tobytes()).items():
            setattr(self, name, getattr(self, name) + value)

    def write(self, path: Path) -> None:
        """All skipped items as CSV."""
        with whole_file(path) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([("id", "reason", "error"), *self.skipped])

    def summary(self) -> list[str]:
        """A line for each reason, with the ids of the first items."""
        ids, errors = defaultdict(list), {}
        for name, reason, error in self.skipped:
            ids[reason].append(name)
            errors.setdefault(reason, error)
        lines = [skip_line(reason, ids[reason], errors[reason]) for reason in ids]
        if self.truncated:
            lines.append(f"{self.truncated:,} truncated: longer than the encoder's window")
        if self.transparent:
            lines.append(f"{self.transparent:,} partly transparent images, put over white")
        return lines
