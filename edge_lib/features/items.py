"""The items of a table, as an encoder takes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge_lib.data.table import Table


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
