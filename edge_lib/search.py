"""Search among Matryoshka embeddings by cosine: exact at any size, or coarse to fine.

1. The index keeps disjoint blocks of columns ([0:64], [64:1024], ...), each contiguous, of rows
   normalised at full width, and the inverse norm of every prefix. The dot product at a size is the
   sum of its blocks' products, so nothing is stored twice, and a small size reads little memory.
   The first block lies column by column: every search streams through it, none gathers its rows.
2. Exact search goes over chunks of rows. Maxima of 64 rows at a time tell which few of them can
   hold one of the k best, and only those are looked at.
3. Coarse to fine keeps a shortlist at one size and adds the products of the remaining blocks to
   those it has already.
4. int8 keeps a scale for each column (its root mean square, as later columns are smaller) and for
   each row and block; products are taken in float32, some rows at a time.

Hits come in a fixed order: the higher cosine first, of equal ones the lower row.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edge_lib.config import from_root
from edge_lib.runs.files import whole_file

GROUP = 64  # rows that share a maximum


SCORES = 1 << 20  # scores held at a time


FLOATS = 1 << 20  # values gathered or made of int8 at a time: what a cache holds


class Hits(NamedTuple):
    """What was found, best first."""

    scores: Tensor  # (Q, k) cosines
    rows: Tensor  # (Q, k)


class MatryoshkaIndex:
    """Rows to be searched at any of `dims`, on the device of the embeddings.

    embeddings (N, D >= max(dims)), normalised or not. A row of zeros has a cosine of 0 with
    everything. Raises ValueError if there is no row, or one that is not finite.
    """

    def __init__(
        self,
        embeddings: Tensor,
        dims: Sequence[int],
        dtype: Literal["float32", "int8"] = "float32",
    ):
        self.dims = sorted(dims)
        if embeddings.ndim != 2 or not len(embeddings):
            raise ValueError(f"an index needs rows (N, D), not {tuple(embeddings.shape)}")
        if not self.dims or self.dims[0] < 1 or self.dims[-1] > embeddings.shape[1]:
            raise ValueError(f"dims {list(dims)} do not fit a width of {embeddings.shape[1]}")
        rows = embeddings[:, : self.dims[-1]].float()
        finite = rows.isfinite().all(1)
        if not finite.all():
            raise ValueError(f"row {int((~finite).nonzero()[0])} is not finite")
        rows = torch.nn.functional.normalize(rows, dim=1)
        parts = [rows[:, columns] for columns in self._columns()]
        self.scales = self.columns = None
        if dtype == "int8":
            self.columns = rows.square().mean(0).sqrt().clamp(min=1e-30)  # (D,)
            parts = [(rows / self.columns)[:, c] for c in self._columns()]
            scales = [part.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127 for part in parts]
            parts = [(p / s).round().to(torch.int8) for p, s in zip(parts, scales, strict=True)]
            self.scales = torch.cat(scales, 1)  # (N, K)
        self.blocks = [parts[0].T.contiguous(), *(part.contiguous() for part in parts[1:])]
        self.inverse_norms = self._inverse_norms()  # (K, N)

    def __len__(self) -> int:
        return self.blocks[0].shape[1]

    @property
    def device(self) -> torch.device:
        return self.blocks[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(x.numel() * x.element_size() for x in self._tensors().values())

    def search(self, queries: Tensor, k: int, dim: int | None = None) -> Hits:
        """The k nearest rows (all, if there are fewer) of each query (Q, D), by cosine over the
        first `dim` columns; by default over all.
        """
        dim = dim or self.dims[-1]
        queries = self._checked(queries, dim)
        norms = _norms(queries[:, :dim])
        level, size = self._level(dim), max(1, SCORES // len(self))
        parts = [self._exact(part, k, level) for part in queries.split(max(size, GROUP))]
        return Hits(
            torch.cat([p.scores for p in parts]) / norms, torch.cat([p.rows for p in parts])
        )

    def search_coarse_to_fine(
        self, queries: Tensor, k: int, dims: Sequence[int], shortlist: int = 200
    ) -> Hits:
        """As `search` at `dims[-1]`, but only among the `shortlist` nearest at `dims[0]`, re-ranked
        at each further size; it halves from one size to the next.
        """
        if list(dims) != sorted(set(dims)) or len(dims) < 2:
            raise ValueError(f"dims {list(dims)} must go from coarse to fine")
        queries = self._checked(queries, dims[-1])
        hits = self.search(queries, max(k, shortlist), dims[0])
        level = self._level(dims[0])
        products = (
            hits.scores * _norms(queries[:, : dims[0]]) / self.inverse_norms[level][hits.rows]
        )
        rows = hits.rows
        for dim in dims[1:]:
            rows, order = rows.sort(dim=1)  # so that a stable sort puts the lower row first
            products = products.gather(1, order)
            for block in range(level + 1, self._level(dim) + 1):
                products = products + self._products_of(rows, queries, block)
            level, shortlist = self._level(dim), max(k, shortlist // 2)
            best = (products * self.inverse_norms[level][rows]).sort(
                dim=1, descending=True, stable=True
            )
            kept = best.indices[:, : k if dim == dims[-1] else shortlist]
            rows, products = rows.gather(1, kept), products.gather(1, kept)
        return Hits(best.values[:, :k] / _norms(queries[:, : dims[-1]]), rows)

    def to(self, device: str | torch.device) -> "MatryoshkaIndex":
        """The same index on another device."""
        return self._of({name: x.to(device) for name, x in self._tensors().items()}, self.dims)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; it appears whole or not at all."""
        with whole_file(from_root(path)) as temporary:
            save_file(self._tensors(), temporary, {"matryoshka_dims": json.dumps(self.dims)})

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "MatryoshkaIndex":
        """Read what `save` wrote. ValueError if the file is something else."""
        try:
            with safe_open(from_root(path), framework="pt", device=device) as file:
                dims = json.loads((file.metadata() or {})["matryoshka_dims"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is not a saved index: {error}") from None
        return cls._of(tensors, dims)

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], dims: list[int]) -> "MatryoshkaIndex":
        index = cls.__new__(cls)
        index.dims = dims
        index.scales, index.columns = tensors.get("scales"), tensors.get("columns")
        index.blocks = [tensors[f"block_{i}"] for i in range(len(dims))]
        index.inverse_norms = tensors["inverse_norms"]
        return index

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"block_{i}": block for i, block in enumerate(self.blocks)}
        tensors["inverse_norms"] = self.inverse_norms
        if self.scales is not None:
            tensors |= {"scales": self.scales, "columns": self.columns}
        return tensors

    def _inverse_norms(self) -> Tensor:
        squares = torch.empty(len(self.dims), len(self), device=self.device)
        for start, stop in _chunks(0, len(self), FLOATS // self.dims[-1]):
            for i, columns in enumerate(self._columns()):
                block = self._block(i, start, stop).float()
                if self.scales is not None:
                    block *= self.scales[start:stop, i, None] * self.columns[columns]
                squares[i, start:stop] = block.square().sum(1)
        return squares.cumsum(0).clamp(min=1e-24).rsqrt()

    def _exact(self, queries: Tensor, k: int, level: int) -> Hits:
        """The best rows, with cosines that lack the queries' norms."""
        best = _Best(len(queries), min(k, len(self)), self.device)
        step = max(GROUP, SCORES // len(queries) // GROUP * GROUP)
        # int8 becomes float32 a few rows at a time
        size = step if self.scales is None else max(1, FLOATS // self.dims[-1])
        for start, stop in _chunks(0, len(self), step):
            parts = [self._products(queries, a, b, level) for a, b in _chunks(start, stop, size)]
            products = parts[0] if len(parts) == 1 else torch.cat(parts)
            best.add(products.mul_(self.inverse_norms[level, start:stop, None]), start)
        return Hits(best.scores, best.rows)

    def _products(self, queries: Tensor, start: int, stop: int, level: int) -> Tensor:
        """Dot products (stop - start, Q) of rows with queries, over the columns up to a level."""
        total = None
        for i, columns in enumerate(self._columns()[: level + 1]):
            block, part = self._block(i, start, stop), queries[:, columns]
            if self.scales is not None:
                block, part = block.float(), part * self.columns[columns]
            product = block @ part.T if len(part) > 1 else (block @ part[0])[:, None]
            if self.scales is not None:
                product *= self.scales[start:stop, i, None]
            total = product if total is None else total.add_(product)
        return total

    def _block(self, number: int, start: int, stop: int) -> Tensor:
        """(stop - start, w) of a block."""
        block = self.blocks[number]
        return block[start:stop] if number else block[:, start:stop].T

    def _products_of(self, rows: Tensor, queries: Tensor, block: int) -> Tensor:
        """Dot products (Q, S) of queries with rows (Q, S) of their own, over one block."""
        columns = self._columns()[block]
        part = queries[:, columns, None]  # (Q, w, 1)
        if self.scales is not None:
            part = part * self.columns[columns, None]
        size = max(1, FLOATS // (rows.shape[1] * part.shape[1]))
        pairs = zip(rows.split(size), part.split(size), strict=True)
        products = torch.cat([(self.blocks[block][r].float() @ q).squeeze(2) for r, q in pairs])
        return products if self.scales is None else products * self.scales[rows, block]

    def _columns(self) -> list[slice]:
        return [slice(a, b) for a, b in zip([0, *self.dims], self.dims, strict=False)]

    def _level(self, dim: int) -> int:
        if dim not in self.dims:
            raise ValueError(f"the index has no dim {dim}, only {self.dims}")
        return self.dims.index(dim)

    def _checked(self, queries: Tensor, dim: int) -> Tensor:
        if queries.ndim != 2 or queries.shape[1] < dim:
            raise ValueError(f"queries must be (Q, {dim} or more), not {tuple(queries.shape)}")
        queries = queries.to(self.device, torch.float32)
        if not queries.isfinite().all():
            raise ValueError("a query is not finite")
        return queries


class _Best:
    """The k best so far of each query, of rows that come in order."""

    def __init__(self, queries: int, k: int, device: torch.device):
        self.k = k
        self.scores = torch.empty(queries, 0, device=device)
        self.rows = torch.empty(queries, 0, dtype=torch.long, device=device)

    def add(self, scores: Tensor, start: int) -> None:
        """scores (n, Q) of the rows from `start` on."""
        count, queries = scores.shape
        if count % GROUP:
            scores = torch.nn.functional.pad(scores, (0, 0, 0, -count % GROUP), value=-torch.inf)
        groups = scores.view(-1, GROUP, queries)
        # a single query's scores lie in one row, where maxima are quicker
        flat = queries == 1
        highest = groups.view(1, -1, GROUP).amax(2) if flat else groups.amax(1).T.contiguous()
        # at least k rows reach the k-th highest maximum; an equal row that comes later never counts
        floor = scores.new_full((queries, 1), torch.finfo(scores.dtype).min)
        if highest.shape[1] >= self.k:
            floor = highest.topk(self.k, dim=1).values[:, -1:]
        if self.scores.shape[1] == self.k:
            above = torch.nextafter(self.scores[:, -1:], torch.full_like(floor, torch.inf))
            floor = floor.maximum(above)
        query, group = (highest >= floor).nonzero(as_tuple=True)  # by query, then by row
        values = groups[group, :, query]  # (P, GROUP)
        pair, place = (values >= floor[query]).nonzero(as_tuple=True)
        query, rows = query[pair], start + group[pair] * GROUP + place
        counts = query.bincount(minlength=queries)
        column = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        width = int(counts.max())
        found = scores.new_full((queries, width), -torch.inf)
        found[query, column] = values[pair, place]
        numbers = rows.new_zeros(queries, width)
        numbers[query, column] = rows
        # stable: what was there before has lower rows
        best = torch.cat([self.scores, found], 1).sort(dim=1, descending=True, stable=True)
        self.scores = best.values[:, : self.k]
        self.rows = torch.cat([self.rows, numbers], 1).gather(1, best.indices[:, : self.k])


def _chunks(start: int, stop: int, size: int):
    return ((i, min(i + size, stop)) for i in range(start, stop, max(1, size)))


def _norms(x: Tensor) -> Tensor:
    return x.norm(dim=1, keepdim=True).clamp(min=1e-12)
