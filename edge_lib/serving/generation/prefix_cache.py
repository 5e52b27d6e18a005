"""Soft tokens of recent pictures and clips, by content."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class SoftTokens:
    """What stands in the place of a placeholder."""

    tokens: Tensor  # (T, W)
    mask: Tensor  # (T,) False on padding

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.mask.nbytes


class PrefixCache:
    """At most `max_bytes` of them; those that were not used for the longest time are dropped."""

    def __init__(self, max_bytes: int):
        self.max_bytes, self.nbytes = max_bytes, 0
        self._items: OrderedDict[Any, SoftTokens] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Any) -> SoftTokens | None:
        if key in self._items:
            self._items.move_to_end(key)
        return self._items.get(key)

    def put(self, key: Any, item: SoftTokens) -> None:
        """Keep an item whose key is new, unless it alone is too large."""
        if item.nbytes > self.max_bytes:
            return
        self._items[key] = item
        self.nbytes += item.nbytes
        while self.nbytes > self.max_bytes:
            self.nbytes -= self._items.popitem(last=False)[1].nbytes
