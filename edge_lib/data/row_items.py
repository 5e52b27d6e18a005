"""The items of each row, any number of them, in two arrays for the whole table."""

from dataclasses import dataclass

import numpy as np


@dataclass
class RowItems:
    """Row r has the items `items[starts[r] : starts[r + 1]]`."""

    items: np.ndarray  # (M,)
    starts: np.ndarray  # (N + 1,)

    @classmethod
    def group(cls, items: np.ndarray, rows: np.ndarray, num_rows: int) -> "RowItems":
        """Items (M,) by the row (M,) of each; those of a row keep their order."""
        if len(rows) and (rows[1:] < rows[:-1]).any():
            items = items[np.argsort(rows, kind="stable")]
        starts = np.zeros(num_rows + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=num_rows), out=starts[1:])
        return cls(compact(items), compact(starts))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """The items of a row."""
        return self.items[self.starts[row] : self.starts[row + 1]]

    @property
    def counts(self) -> np.ndarray:
        """(N,) how many items each row has."""
        return np.diff(self.starts)

    @property
    def rows(self) -> np.ndarray:
        """(M,) the row of each item."""
        return np.repeat(np.arange(len(self)), self.counts)

    def select(self, rows: np.ndarray) -> "RowItems":
        """The items of these rows, which become rows 0, 1, ..."""
        counts = self.counts[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return RowItems(self.items[places], compact(starts))

    def keep(self, mask: np.ndarray) -> "RowItems":
        """Only the items of which mask (M,) is true."""
        return RowItems.group(self.items[mask], self.rows[mask], len(self))

    def pick(self, rows: np.ndarray, draws: np.ndarray, turns: np.ndarray | int = 0) -> np.ndarray:
        """(B,) one item of each row, chosen by draws (B,) from [0, 1); -1 where a row has none.

        turns (B,): how many items after that one, counted in a circle; -1 where a row has no more.
        """
        starts = self.starts[rows].astype(np.int64)
        counts = self.starts[rows + 1] - starts
        places = starts + ((draws * counts).astype(np.int64) + turns) % np.maximum(counts, 1)
        picked = self.items[np.minimum(places, len(self.items) - 1)] if len(self.items) else -1
        return np.where(counts > turns, picked, -1).astype(np.int64)


def compact(numbers: np.ndarray) -> np.ndarray:
    """Numbers, from 0, in 32 bits where these are enough."""
    largest = numbers.max(initial=0)
    return numbers.astype(np.int32) if largest < 2**31 else numbers
