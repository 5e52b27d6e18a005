"""Precision of retrieval where several gallery items are right for a query."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.metrics.flat_names import metrics_by_dim
from edge_lib.metrics.recall import RelevantItems
from edge_lib.metrics.scores import Embeddings, scores_by_dim

COLUMNS = ["query", "gallery", "dim", "measure", "value", "low", "high", "rows", "right", "chance"]


def precision_at_r(
    queries: Tensor | Embeddings,
    gallery: Tensor | Embeddings,
    relevant: RelevantItems,
    dims: Sequence[int],
    chunk: int = 256,
) -> np.ndarray:
    """(2, len(dims), Q) the average precision at R and the R-precision of each query, where R is
    the number of its right items (Musgrave et al. 2020, arXiv 2003.08505, section 3.2; the measures
    of ECCV Caption, Chun et al. 2022).

    AP@R is the sum over the right items among the first R of the precision at their rank, over R.
    Ties count against the query. NaN for a query without a right item.
    """
    sizes, parts = sorted(dims), []
    for first in range(0, len(queries), chunk):
        part = queries[first : first + chunk]
        items = torch.from_numpy(relevant(first, first + chunk))
        scores = scores_by_dim(part, gallery, sizes)
        parts.append([_precision_(s, items.to(s.device)).cpu() for s in scores])
    by_dim = dict(zip(sizes, (torch.cat(p, 1) for p in zip(*parts, strict=True)), strict=True))
    return torch.stack([by_dim[dim] for dim in dims], 1).numpy()


def _precision_(scores: Tensor, items: Tensor) -> Tensor:
    """scores (Q, G), overwritten; items (Q, R), padded with -1 -> (2, Q) AP@R and R-precision."""
    valid, count = items >= 0, (items >= 0).sum(1)
    scores.nan_to_num_(nan=-torch.inf)
    own = scores.gather(1, items.clamp(min=0)).masked_fill_(~valid, -torch.inf)
    own = own.sort(dim=1, descending=True).values
    rows = torch.arange(len(items), device=items.device)[:, None].expand_as(items)
    scores[rows[valid], items[valid]] = -torch.inf
    wrong = scores.topk(min(items.shape[1], scores.shape[1]), 1, sorted=True).values.flip(1)
    above = wrong.shape[1] - torch.searchsorted(wrong.contiguous(), own)  # wrong items, capped
    place = torch.arange(1, items.shape[1] + 1, device=items.device)
    hit = (place <= count[:, None]) & (place + above <= count[:, None])
    precision = (place / (place + above)).where(hit, 0.0)
    return torch.stack([precision.sum(1), hit.sum(1).float()]) / count


def chance_precision(relevant: np.ndarray, gallery: int) -> dict[str, float]:
    """The expected measures of a random order of the gallery, for queries with `relevant` (Q,)
    right items in it.
    """
    ranks = np.arange(1, relevant.max(initial=0) + 1)
    before = (ranks - 1) * (relevant[:, None] - 1) / max(1, gallery - 1)  # right ones, expected
    terms = np.where(ranks <= relevant[:, None], (1 + before) / ranks, 0)
    return {
        "map_at_r": float((terms.sum(1) / gallery).mean()),
        "r_precision": float((relevant / gallery).mean()),
    }


def precision_table(
    embeddings: dict[str, Tensor | Embeddings],
    rows: dict[str, np.ndarray],
    dims: Sequence[int],
    groups: np.ndarray,
    bootstrap: int = 0,
    labels: dict[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """mAP@R and R-precision between each pair of modalities, both ways, at each dim, with 95%
    bootstrap intervals. Arguments and right items are those of `recall_table`; queries without one
    are left out.

    Columns: query, gallery, dim, measure, value, low, high, rows (gallery size), right (the mean
    number of right items), chance (`chance_precision`).
    """
    labels, records = labels or {}, []
    for query, gallery in permutations(embeddings, 2):
        relevant = RelevantItems(rows[query], rows[gallery], labels.get(query), labels.get(gallery))
        counts = relevant.counts()
        known, size = counts > 0, len(rows[gallery])
        chance = chance_precision(counts[known], size)
        values = precision_at_r(embeddings[query], embeddings[gallery], relevant, dims)
        for measure, by_dim in zip(chance, values[:, :, known], strict=True):
            for dim, value in zip(dims, by_dim, strict=True):
                interval = bootstrap_interval(value, groups[rows[query][known]], bootstrap)
                record = query, gallery, dim, measure, value.mean(), *interval
                records.append((*record, size, counts[known].mean(), chance[measure]))
    return pd.DataFrame(records, columns=COLUMNS)


def precision_metrics(precision: pd.DataFrame, split: str) -> dict[str, float]:
    """By flat name: test.vision_to_text.map_at_r (full dim), test....map_at_r.dim64, ..."""
    return metrics_by_dim(
        precision, lambda row: f"{split}.{row.query}_to_{row.gallery}.{row.measure}"
    )
