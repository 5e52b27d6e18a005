"""Cosine search in Matryoshka embeddings: exact at any dim, or coarse to fine.

1. The index stores rows normalised at full width, split into disjoint blocks of columns ([0:64],
   [64:1024], ...), and the inverse norm of every prefix. The dot product at a dim is the sum of its
   blocks' products, so nothing is stored twice and a small dim reads little memory. The first
   block is stored column by column: searches scan it in full and never read single rows of it.
2. Exact search works on chunks of rows. Within a chunk, the maxima of groups of 64 rows show which
   groups can contain one of the k best; only the rows of those groups are compared.
3. Coarse-to-fine search takes a shortlist at one dim and adds the products of the remaining blocks.
4. int8 stores one scale per column (its root mean square, as later columns are smaller) and one
   per row and block. Products are computed in float32, a few rows at a time.

Results are ordered by falling cosine, and by rising row number for equal cosines.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from edge_lib.runs.files import whole_file
from edge_lib.runs.tensors import save_tensors

GROUP = 64  # rows per maximum
MAX_SCORES = 1 << 20  # scores in memory at once
MAX_FLOATS = 1 << 20  # values gathered, or converted from int8, at once: they fit the CPU's cache

Vectors = Tensor | np.ndarray | Sequence[Sequence[float]]


class Hits(NamedTuple):
    """Search results, best first."""

    scores: Tensor  # (Q, k) cosines
    rows: Tensor  # (Q, k) row numbers


class MatryoshkaIndex:
    """An index that is searched at any of `dims`, on the device of the embeddings.

    embeddings (N, D >= max(dims)), a tensor, an array or lists; normalised or not. A row of zeros
    has a cosine of 0 with everything. Raises ValueError for no rows, rows that are not finite, and
    dims that repeat or are wider than D.
    """

    def __init__(
        self,
        embeddings: Vectors,
        dims: Sequence[int],
        dtype: Literal["float32", "int8"] = "float32",
    ):
        if not isinstance(dims, Iterable):
            raise ValueError(f"dims must be a sequence such as [64, 256], got {dims!r}")
        self.dims, embeddings = sorted(map(int, dims)), _as_tensor(embeddings)
        if embeddings.ndim != 2 or not len(embeddings):
            raise ValueError(f"an index needs embeddings (N, D), got {tuple(embeddings.shape)}")
        wrong = len(set(self.dims)) < len(self.dims) or not self.dims or self.dims[0] < 1
        if wrong or self.dims[-1] > embeddings.shape[1]:
            raise ValueError(
                f"dims {self.dims} must be numbers from 1 to {embeddings.shape[1]}, each once"
            )
        rows = embeddings[:, : self.dims[-1]].float()
        finite = rows.isfinite().all(1)
        if not finite.all():
            raise ValueError(f"row {int((~finite).nonzero()[0])} of the embeddings is not finite")
        rows = torch.nn.functional.normalize(rows, dim=1)
        parts = [rows[:, columns] for columns in self._columns()]
        self.scales = self.column_scales = None
        if dtype == "int8":
            self.column_scales = rows.square().mean(0).sqrt().clamp(min=1e-30)  # (D,)
            parts = [(rows / self.column_scales)[:, c] for c in self._columns()]
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
        """Size of the index in bytes."""
        return sum(x.numel() * x.element_size() for x in self._tensors().values())

    def search(self, queries: Vectors, k: int, dim: int | None = None) -> Hits:
        """The k nearest rows (at most N) of each query (Q, D), by cosine over the first `dim`
        columns; over all of them by default. ValueError for wrong shapes, dims and k.
        """
        dim = self.dims[-1] if dim is None else dim
        queries, level = self._validated(queries, dim, k), self._level(dim)
        if not len(queries) or not k:
            return self._no_hits(queries, k)
        size = max(GROUP, self._limit(MAX_SCORES) // len(self))
        parts = [self._exact(part, k, level) for part in queries.split(size)]
        scores, rows = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return Hits(scores / _norms(queries[:, :dim]), rows)

    def search_coarse_to_fine(
        self, queries: Vectors, k: int, dims: Sequence[int], shortlist: int = 200
    ) -> Hits:
        """Like `search` at `dims[-1]`, but only among the `shortlist` nearest rows at `dims[0]`,
        re-ranked at each further dim; the shortlist halves from one dim to the next.
        """
        if list(dims) != sorted(set(dims)) or len(dims) < 2:
            raise ValueError(f"dims {list(dims)} must be two or more, in ascending order")
        queries = self._validated(queries, dims[-1], k)
        if not len(queries) or not k:
            return self._no_hits(queries, k)
        scores, rows = self.search(queries, max(k, shortlist), dims[0])
        level = self._level(dims[0])
        products = scores * _norms(queries[:, : dims[0]]) / self.inverse_norms[level][rows]
        for dim in dims[1:]:
            rows, order = rows.sort(dim=1)  # the stable sort below then keeps the lower row first
            products = products.gather(1, order)
            for block in range(level + 1, self._level(dim) + 1):
                products = products + self._row_products(rows, queries, block)
            level, shortlist = self._level(dim), max(k, shortlist // 2)
            cosines = products * self.inverse_norms[level][rows]
            best = cosines.sort(dim=1, descending=True, stable=True)
            kept = best.indices[:, : k if dim == dims[-1] else shortlist]
            rows, products = rows.gather(1, kept), products.gather(1, kept)
        return Hits(best.values[:, :k] / _norms(queries[:, : dims[-1]]), rows)

    def _limit(self, count: int) -> int:
        return count if self.device.type == "cpu" else 64 * count  # launches of kernels take time

    def to(self, device: str | torch.device) -> "MatryoshkaIndex":
        """The same index on another device."""
        tensors = {name: x.to(device) for name, x in self._tensors().items()}
        return self._from_tensors(tensors, self.dims)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        with whole_file(Path(path).expanduser()) as temporary:
            save_tensors(self._tensors(), temporary, {"matryoshka_dims": json.dumps(self.dims)})

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> "MatryoshkaIndex":
        """Read an index written by `save`. ValueError for any other file."""
        try:
            with safe_open(Path(path).expanduser(), framework="pt", device=device) as file:
                dims = json.loads((file.metadata() or {})["matryoshka_dims"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is not a saved index: {error}") from None
        return cls._from_tensors(tensors, dims)

    @classmethod
    def _from_tensors(cls, tensors: dict[str, Tensor], dims: list[int]) -> "MatryoshkaIndex":
        index = cls.__new__(cls)
        index.dims = dims
        index.scales, index.column_scales = tensors.get("scales"), tensors.get("columns")
        index.blocks = [tensors[f"block_{i}"] for i in range(len(dims))]
        index.inverse_norms = tensors["inverse_norms"]
        return index

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"block_{i}": block for i, block in enumerate(self.blocks)}
        tensors["inverse_norms"] = self.inverse_norms
        if self.scales is not None:
            tensors |= {"scales": self.scales, "columns": self.column_scales}
        return tensors

    def _inverse_norms(self) -> Tensor:
        squares = torch.empty(len(self.dims), len(self), device=self.device)
        for start, stop in _chunks(0, len(self), self._limit(MAX_FLOATS) // self.dims[-1]):
            for i, columns in enumerate(self._columns()):
                block = self._block(i, start, stop).float()
                if self.scales is not None:
                    block *= self.scales[start:stop, i, None] * self.column_scales[columns]
                squares[i, start:stop] = block.square().sum(1)
        return squares.cumsum(0).clamp(min=1e-24).rsqrt()

    def _exact(self, queries: Tensor, k: int, level: int) -> Hits:
        """The best rows, with cosines not yet divided by the queries' norms."""
        best = _TopK(len(queries), min(k, len(self)), self.device)
        step = max(GROUP, self._limit(MAX_SCORES) // len(queries) // GROUP * GROUP)
        size = step if self.scales is None else max(1, self._limit(MAX_FLOATS) // self.dims[-1])
        for start, stop in _chunks(0, len(self), step):
            parts = [self._products(queries, a, b, level) for a, b in _chunks(start, stop, size)]
            products = parts[0] if len(parts) == 1 else torch.cat(parts)
            best.add(products.mul_(self.inverse_norms[level, start:stop, None]), start)
        return Hits(best.scores, best.rows)

    def _products(self, queries: Tensor, start: int, stop: int, level: int) -> Tensor:
        """Dot products (stop - start, Q) of rows with queries, over the columns up to a level (the
        index of a dim in `dims`)."""
        total = None
        for i, columns in enumerate(self._columns()[: level + 1]):
            block, part = self._block(i, start, stop), queries[:, columns]
            if self.scales is not None:
                block, part = block.float(), part * self.column_scales[columns]
            product = block @ part.T if len(part) > 1 else (block @ part[0])[:, None]
            if self.scales is not None:
                product *= self.scales[start:stop, i, None]
            total = product if total is None else total.add_(product)
        return total

    def _block(self, number: int, start: int, stop: int) -> Tensor:
        """Rows of a block, (stop - start, w)."""
        block = self.blocks[number]
        return block[start:stop] if number else block[:, start:stop].T

    def _row_products(self, rows: Tensor, queries: Tensor, block: int) -> Tensor:
        """Dot products (Q, S) of each query with its own rows (Q, S), over one block."""
        columns = self._columns()[block]
        part = queries[:, columns, None]  # (Q, w, 1)
        if self.scales is not None:
            part = part * self.column_scales[columns, None]
        size = max(1, self._limit(MAX_FLOATS) // (rows.shape[1] * part.shape[1]))
        pairs = zip(rows.split(size), part.split(size), strict=True)
        products = torch.cat([(self.blocks[block][r].float() @ q).squeeze(2) for r, q in pairs])
        return products if self.scales is None else products * self.scales[rows, block]

    def _columns(self) -> list[slice]:
        return [slice(a, b) for a, b in zip([0, *self.dims], self.dims, strict=False)]

    def _level(self, dim: int) -> int:
        if dim not in self.dims:
            raise ValueError(f"the index has no dim {dim}; its dims are {self.dims}")
        return self.dims.index(dim)

    def _no_hits(self, queries: Tensor, k: int) -> Hits:
        scores = queries.new_empty(len(queries), min(k, len(self)))
        return Hits(scores, scores.long())

    def _validated(self, queries: Vectors, dim: int, k: int) -> Tensor:
        queries = _as_tensor(queries)
        if k < 0:
            raise ValueError(f"k must be 0 or more, got {k}")
        if queries.ndim != 2 or queries.shape[1] < dim:
            raise ValueError(f"queries must be (Q, {dim} or more), got {tuple(queries.shape)}")
        queries = queries.to(self.device, torch.float32)
        if not queries.isfinite().all():
            raise ValueError("queries must be finite")
        return queries


def _as_tensor(x: Vectors) -> Tensor:
    """Copies arrays of negative strides, such as `x[::-1]`, which torch refuses."""
    return torch.as_tensor(np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x)


class _TopK:
    """The k best rows so far of each query; rows are added in ascending order."""

    def __init__(self, queries: int, k: int, device: torch.device):
        self.k = k
        self.scores = torch.empty(queries, 0, device=device)
        self.rows = torch.empty(queries, 0, dtype=torch.long, device=device)

    def add(self, scores: Tensor, start: int) -> None:
        """Add scores (n, Q) of the rows start, start + 1, ..."""
        count, queries = scores.shape
        if count % GROUP:
            scores = torch.nn.functional.pad(scores, (0, 0, 0, -count % GROUP), value=-torch.inf)
        groups = scores.view(-1, GROUP, queries)
        # the scores of a single query are contiguous, and their maxima faster this way
        single = queries == 1
        highest = groups.view(1, -1, GROUP).amax(2) if single else groups.amax(1).T.contiguous()
        # at least k rows reach the k-th highest maximum; a later row must exceed the current k-th
        floor = scores.new_full((queries, 1), torch.finfo(scores.dtype).min)
        if highest.shape[1] >= self.k:
            floor = highest.topk(self.k, dim=1).values[:, -1:]
        if self.scores.shape[1] == self.k:
            above = torch.nextafter(self.scores[:, -1:], torch.full_like(floor, torch.inf))
            floor = floor.maximum(above)
        query, group = (highest >= floor).nonzero(as_tuple=True)  # by query, then by row
        values = groups[group, :, query]  # (P, GROUP)
        pair, offset = (values >= floor[query]).nonzero(as_tuple=True)
        query, rows = query[pair], start + group[pair] * GROUP + offset
        counts = query.bincount(minlength=queries)
        column = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        width = int(counts.max())
        new_scores = scores.new_full((queries, width), -torch.inf)
        new_scores[query, column] = values[pair, offset]
        new_rows = rows.new_zeros(queries, width)
        new_rows[query, column] = rows
        # the stable sort puts earlier, lower rows first
        best = torch.cat([self.scores, new_scores], 1).sort(dim=1, descending=True, stable=True)
        self.scores = best.values[:, : self.k]
        self.rows = torch.cat([self.rows, new_rows], 1).gather(1, best.indices[:, : self.k])


def _chunks(start: int, stop: int, size: int):
    return ((i, min(i + size, stop)) for i in range(start, stop, max(1, size)))


def _norms(x: Tensor) -> Tensor:
    return x.norm(dim=1, keepdim=True).clamp(min=1e-12)
