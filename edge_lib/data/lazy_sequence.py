"""A sequence whose values are read when they are asked for."""

from collections.abc import Iterator, Sequence

import numpy as np

BLOCK = 8192  # values that are read at a time where all are asked for


class LazySequence(Sequence):
    """Subclasses define `__len__` and `take`."""

    def take(self, numbers: Sequence[int]) -> list:
        """The values with these numbers."""
        raise NotImplementedError

    def __getitem__(self, key: int | slice):
        if isinstance(key, slice):
            return self.take(np.arange(len(self))[key])
        return self.take([range(len(self))[key]])[0]

    def __iter__(self) -> Iterator:
        for start in range(0, len(self), BLOCK):
            yield from self[start : start + BLOCK]

    def __eq__(self, other) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)
