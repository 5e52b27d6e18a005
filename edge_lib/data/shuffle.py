"""A random order of many numbers, any part of which is computed by itself."""

import numpy as np

ROUNDS = 4


class Shuffle:
    """A permutation of range(size); a slice of it takes time and memory for that slice alone.

    A Feistel network over the cells of a grid of at least `size` cells; numbers that fall outside
    are permuted again until they fall inside (Black & Rogaway 2002, "Ciphers with arbitrary finite
    domains").
    """

    def __init__(self, size: int, key: list[int]):
        """key: numbers that the permutation is a function of."""
        self.size = size
        self.columns = np.uint64(np.ceil(np.sqrt(size)))
        self.rows = np.uint64(-(-size // int(self.columns)))
        self.keys = np.random.default_rng(key).integers(0, 2**63, (ROUNDS, 2), dtype=np.uint64)

    def __getitem__(self, places: slice) -> np.ndarray:
        """(n,) int64, the numbers at these places."""
        numbers = self._permute(np.arange(*places.indices(self.size), dtype=np.uint64))
        while (outside := numbers >= self.size).any():
            numbers[outside] = self._permute(numbers[outside])
        return numbers.astype(np.int64)

    def _permute(self, numbers: np.ndarray) -> np.ndarray:
        """Permute the cells of the grid."""
        row, column = np.divmod(numbers, self.columns)
        for row_key, column_key in self.keys:
            row = (row + _mix(column + row_key)) % self.rows
            column = (column + _mix(row + column_key)) % self.columns
        return row * self.columns + column


def _mix(x: np.ndarray) -> np.ndarray:
    """64 random bits for each number (SplitMix64, Steele et al. 2014); shifted by one bit, so that
    the sum with a row or column does not wrap.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) >> np.uint64(1)
