"""Scores between embeddings of two modalities."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch


class Embeddings(Protocol):
    """Embeddings of N items that are not compared by cosine, such as a vector for each token."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows) -> "Embeddings": ...

    def scores(self, gallery: "Embeddings", dims: Sequence[int]) -> Iterator[torch.Tensor]:
        """Scores (N, G) at each of `dims`."""


def scores_by_dim(
    queries: torch.Tensor | Embeddings, gallery: torch.Tensor | Embeddings, dims: Sequence[int]
) -> Iterator[torch.Tensor]:
    """Scores (Q, G) at each of `dims`, ascending: of vectors (Q, D) and (G, D) the cosines over the
    first d columns, else those that the embeddings define. What is yielded may be overwritten.
    """
    if not isinstance(queries, torch.Tensor):
        yield from queries.scores(gallery, dims)
        return
    queries, gallery = queries.float(), gallery.float()
    if dims[-1] > (width := min(queries.shape[1], gallery.shape[1])):
        raise ValueError(f"dim {dims[-1]} exceeds the embedding width {width}")
    product, start = queries.new_zeros(len(queries), len(gallery)), 0
    scores = torch.empty_like(product)
    for d in dims:
        product.addmm_(queries[:, start:d], gallery[:, start:d].T)
        torch.div(product, _norms(gallery[:, :d]), out=scores)
        yield scores.div_(_norms(queries[:, :d])[:, None])
        start = d


def _norms(x: torch.Tensor) -> torch.Tensor:
    return x.norm(dim=1).clamp(min=1e-12)
