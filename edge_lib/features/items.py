"""The items of a table that an encoder encodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_lib.data.skipped import Skipped
from edge_lib.data.table import Table


@dataclass
class Items:
    """The images, clips or captions of a table, by number."""

    table: Table
    modality: str

    def __len__(self) -> int:
        return len(self.table.items(self.modality))

    def load(self, items: Sequence[int]) -> list:
        """Decoded items, or `Skipped` with the reason. Nothing is counted."""
        if self.modality == "text":
            return self.table.captions.take(items)
        return self.table.try_decode(self.modality, self._rows(items))

    def skip(self, skipped: Mapping[int, Skipped]) -> None:
        """Count items that are left out, with a line for each reason."""
        self.table.skip_all({int(self._rows(item)): own for item, own in skipped.items()})

    def count_skipped(self, item: int, skipped: Skipped) -> str:
        """Count an item that is left out, without a line. Returns its row's id."""
        row = int(self._rows(item))
        self.table.count_skipped(skipped.reason, [row])
        return self.table.ids[row]

    def _rows(self, items) -> np.ndarray:
        return self.table.item_rows(self.modality)[items]

    def batches(self, start: int, stop: int, size: int) -> list[np.ndarray]:
        """Item numbers from start to stop in batches; captions sorted by length, to pad little."""
        order = np.arange(start, stop)
        if self.modality == "text":
            lengths = [*map(len, self.table.captions.take(order))]
            order = order[np.argsort(lengths, kind="stable")]
        return [order[i : i + size] for i in range(0, len(order), size)]
