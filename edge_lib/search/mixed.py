"""Search in a gallery of several modalities, without the gap between them.

Contrastive training leaves each modality in a region of its own (Liang et al. 2022, arXiv
2203.02053): in a mixed gallery the nearest items of a caption are other captions. Without the mean
of its modality an item is compared by what sets it apart from others of its kind.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_lib.search.matryoshka import Hits, MatryoshkaIndex, Vectors

SMALL = 1e-5  # a shorter remainder is rounding, not a direction


class MixedIndex:
    """An index of items of several modalities, such as images and captions.

    embeddings: modality -> (N_m, D >= max(dims)); rows of results count through them in this order.
    dims: as of `MatryoshkaIndex`. Raises ValueError for no items and rows that are not finite.

    Example:
        >>> index = MixedIndex({"vision": images, "text": captions}, aligner.dims)
        >>> hits = index.search(aligner.embed("text", "a red three"), 10, "text", center=True)
        >>> modality, row = index.locate(hits.rows)
    """

    def __init__(self, embeddings: Mapping[str, Vectors], dims: Sequence[int]):
        self.names, self.dims = list(embeddings), sorted(dims)
        self.parts = {name: _unit(name, rows, self.dims[-1]) for name, rows in embeddings.items()}
        self.starts = torch.tensor([0, *map(len, self.parts.values())]).cumsum(0)
        self._indexes: dict[tuple[bool, bool], MatryoshkaIndex] = {}

    def search(
        self,
        queries: Vectors,
        k: int,
        modality: str,
        dim: int | None = None,
        center: bool = False,
        standardize: bool = False,
    ) -> Hits:
        """The k nearest items of each query (Q, D) of a modality, by cosine at `dim`.

        center: subtract from items and queries, at unit length, the mean of the gallery's items of
        their modality. standardize: divide by their standard deviation as well, column by column.
        ValueError for a modality that the gallery lacks, as its mean is not known.
        """
        if modality not in self.parts:
            raise ValueError(f"no modality {modality!r} in the index, only {', '.join(self.names)}")
        queries = _unit("queries", queries, self.dims[-1])
        queries = self._shifted(modality, queries, center, standardize)
        return self._index(center, standardize).search(queries, k, dim)

    def locate(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The modality of each result, a number in `names`, and its row among those items."""
        rows = rows.cpu()
        number = torch.searchsorted(self.starts, rows, right=True) - 1
        return number, rows - self.starts[number]

    def _index(self, *options: bool) -> MatryoshkaIndex:
        """The index of shifted items, built when it is first searched."""
        if options not in self._indexes:
            rows = [self._shifted(name, part, *options) for name, part in self.parts.items()]
            self._indexes[options] = MatryoshkaIndex(torch.cat(rows), self.dims)
        return self._indexes[options]

    def _shifted(self, modality: str, rows: Tensor, center: bool, standardize: bool) -> Tensor:
        """Unit rows (n, D) of a modality, less its mean, over its deviations; zeros stay zeros."""
        items = self.parts[modality]
        shifted = rows - items.mean(0) if center else rows
        empty = (shifted.norm(dim=1) < SMALL) | ~rows.any(1)
        if standardize:
            shifted = shifted / items.std(0, correction=0).clamp(min=SMALL)
        return shifted.masked_fill(empty[:, None], 0)


def _unit(name: str, rows: Vectors, width: int) -> Tensor:
    """The first `width` columns (n, width) at unit length. ValueError if they are not finite."""
    rows = torch.as_tensor(rows)
    if rows.ndim != 2 or rows.shape[1] < width or not len(rows):
        raise ValueError(f"{name} must be (1 or more, {width} or more), got {tuple(rows.shape)}")
    rows = rows[:, :width].float()
    if len(wrong := (~rows.isfinite().all(1)).nonzero()):
        raise ValueError(f"{name}: row {int(wrong[0])} is not finite")
    return F.normalize(rows, dim=1)
