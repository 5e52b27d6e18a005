"""Cosines without the mean of each modality, of rows that are stored once, as they are."""

from functools import lru_cache

import numpy as np

SMALL = 1e-6  # squared length of a remainder that is rounding, not a direction


class CenteredRows:
    """Rows (N, D) of several modalities, at unit length, less the mean of those of their modality,
    as in `edge_lib.search.MixedIndex`: computed from products of the rows, which are not copied.

    kinds (N,): numbers of their modalities.
    """

    def __init__(self, vectors: np.ndarray, kinds: np.ndarray):
        self._vectors, self._kinds = vectors, kinds
        lengths = np.linalg.norm(vectors, axis=1)
        self._scales = np.divide(1, lengths, where=lengths > 0, out=np.zeros_like(lengths))
        members = kinds == np.arange(kinds.max() + 1)[:, None]  # (M, N)
        counts = members.sum(1, keepdims=True)
        self._means = (members * self._scales @ vectors / counts).astype(np.float32)  # (M, D)
        self._inverse_norms = lru_cache(None)(self._find_inverse_norms)

    def cosines(self, vector: np.ndarray, dim: int, kind: int) -> np.ndarray:
        """(N,) of an item (D or more) of a modality, over the first `dim` columns; 0 where nothing
        is left of it or of a row.
        """
        vector = vector[: self._means.shape[1]]
        query = (vector / max(np.linalg.norm(vector), 1e-12) - self._means[kind])[:dim]
        length = query @ query
        if length < SMALL or not vector.any():
            return np.zeros(len(self._vectors), np.float32)
        products = self._vectors[:, :dim] @ query * self._scales
        products -= (self._means[:, :dim] @ query)[self._kinds]
        return products * self._inverse_norms(dim) / np.sqrt(length)

    def _find_inverse_norms(self, dim: int) -> np.ndarray:
        """(N,) of the first columns of what is left of each row, |u|^2 - 2 u m + |m|^2."""
        vectors, means = self._vectors[:, :dim], self._means[:, :dim]
        products = (vectors @ means.T)[np.arange(len(vectors)), self._kinds]
        squares = np.square(np.linalg.norm(vectors, axis=1) * self._scales)
        squares += np.square(means).sum(1)[self._kinds] - 2 * products * self._scales
        left = (squares > SMALL) & (self._scales > 0)
        return np.where(left, squares.clip(SMALL) ** -0.5, 0)
