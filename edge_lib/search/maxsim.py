"""Search by late interaction: exact, or with a shortlist of pooled vectors that is ranked again.

The mean of an item's unit vectors is its pooled vector. Of the items whose pooled vectors are
nearest, MaxSim is computed exactly; the others are never read. A shortlist of a few hundred keeps
nearly all results where pooled vectors know roughly what an item is about.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edge_lib.nn.maxsim import FLOOR, MAX_COSINES, TokenVectors, unit_scores
from edge_lib.runs.files import whole_file
from edge_lib.runs.tensors import save_tensors
from edge_lib.search.matryoshka import Hits, MatryoshkaIndex


class MaxSimIndex:
    """An index of items with a vector for each token, on the device of the vectors.

    Vectors are kept at unit length; padding is stored, up to the longest item. Raises ValueError
    for no items, an item without tokens, and vectors that are not finite.

    Example:
        >>> index = MaxSimIndex(aligner.embed("vision", images))
        >>> index.search_two_stage(aligner.embed("text", ["a red three"]), k=10).rows
    """

    def __init__(self, items: TokenVectors):
        _check("the index", items)
        if not len(items):
            raise ValueError("an index needs items")
        self.items = items.unit()
        self.pooled = MatryoshkaIndex(self.items.mean(), [self.width])

    def __len__(self) -> int:
        return len(self.items)

    @property
    def width(self) -> int:
        return self.items.vectors.shape[2]

    @property
    def nbytes(self) -> int:
        """Size of the index in bytes, pooled vectors included."""
        tensors = self.items.vectors, self.items.mask
        return sum(x.numel() * x.element_size() for x in tensors) + self.pooled.nbytes

    @torch.no_grad()
    def search(self, queries: TokenVectors, k: int) -> Hits:
        """The k items (at most N) with the highest MaxSim with each query, compared with all."""
        queries = self._validated(queries, k)
        scores = queries.vectors.new_empty(len(queries), 0)
        rows = torch.empty(len(queries), 0, dtype=torch.long, device=scores.device)
        size = max(1, MAX_COSINES // max(1, queries.mask.numel() * self.items.mask.shape[1]))
        for start in range(0, len(self), max(size, k)):
            part = self.items[start : start + max(size, k)]
            words = queries.rank >= part.rank
            part_scores = unit_scores(queries, part) if words else unit_scores(part, queries).T
            part_rows = torch.arange(start, start + len(part), device=rows.device)
            scores = torch.cat([scores, part_scores], 1)
            rows = torch.cat([rows, part_rows.expand(len(queries), -1)], 1)
            scores, rows = _best(scores, rows, k)
        return Hits(scores, rows)

    @torch.no_grad()
    def search_two_stage(self, queries: TokenVectors, k: int, shortlist: int = 200) -> Hits:
        """Like `search`, but only among the `shortlist` items whose pooled vectors are nearest."""
        queries = self._validated(queries, k)
        candidates = self.pooled.search(queries.mean(), max(k, shortlist)).rows.sort(dim=1).values
        size = max(1, MAX_COSINES // max(1, candidates.shape[1] * self.items.vectors[0].numel()))
        parts = [
            _best(self._scores(queries[rows], candidates[rows]), candidates[rows], k)
            for rows in torch.arange(len(queries), device=candidates.device).split(size)
        ]
        scores, rows = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return Hits(scores, rows)

    def _scores(self, queries: TokenVectors, rows: Tensor) -> Tensor:
        """MaxSim (Q, S) of each query with its own items, rows (Q, S)."""
        items, mask = self.items.vectors[rows], self.items.mask[rows]  # (Q, S, P, D), (Q, S, P)
        cosines = (items.flatten(1, 2) @ queries.vectors.mT).unflatten(1, mask.shape[1:])
        own = queries.mask[:, None]  # (Q, 1, L)
        if queries.rank >= self.items.rank:
            return _mean(cosines.masked_fill(~mask[..., None], FLOOR).amax(2), own)
        return _mean(cosines.masked_fill(~own[:, :, None], FLOOR).amax(3), mask)

    def _validated(self, queries: TokenVectors, k: int) -> TokenVectors:
        _check("queries", queries)
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        if queries.vectors.shape[2] != self.width:
            raise ValueError(
                f"queries must be {self.width} wide, as the index, got {queries.vectors.shape[2]}"
            )
        return queries.to(self.items.vectors.device).unit()

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        tensors = {"vectors": self.items.vectors, "mask": self.items.mask}
        with whole_file(Path(path).expanduser()) as temporary:
            save_tensors(tensors, temporary, {"maxsim_rank": json.dumps(self.items.rank)})

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "MaxSimIndex":
        """Read an index written by `save`. ValueError for any other file."""
        try:
            with safe_open(Path(path).expanduser(), framework="pt", device=device) as file:
                rank = json.loads((file.metadata() or {})["maxsim_rank"])
                vectors, mask = file.get_tensor("vectors"), file.get_tensor("mask")
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is not a saved index: {error}") from None
        return cls(TokenVectors(vectors, mask, rank))


def _best(scores: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best scores (Q, k), falling, and their rows; the lower row first among equal scores."""
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return scores.gather(1, order), rows.gather(1, order)


def _mean(scores: Tensor, mask: Tensor) -> Tensor:
    """(Q, S, T) -> (Q, S), over the valid tokens."""
    return (scores * mask).sum(2) / mask.sum(2).clamp(min=1)


def _check(name: str, items: TokenVectors) -> None:
    if not items.mask.any(1).all():
        raise ValueError(f"{name}: item {int((~items.mask.any(1)).nonzero()[0])} has no tokens")
    if not items.vectors[items.mask].isfinite().all():
        raise ValueError(f"{name}: vectors must be finite")
