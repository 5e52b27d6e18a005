"""Numbers: retrieval recall at every Matryoshka dim, with bootstrap intervals."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from edge_lib.metrics.bootstrap import bootstrap_interval


def retrieval_ranks(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    query_rows: np.ndarray | None = None,
    gallery_rows: np.ndarray | None = None,
    dims: Sequence[int] = (),
    chunk: int = 256,
) -> np.ndarray:
    """(len(dims), Q) how many wrong gallery items score at least as high as the query's best right
    one, by cosine over the first d columns for each d of `dims`; (Q,) over all if there are none.

    queries (Q, D), gallery (G, D). A gallery item is right if it comes from the query's row (any
    of several counts: COCO's any-hit rule). Ties count against the query, so that embeddings that
    collapsed to one point, or are NaN, have a recall of 0.
    """
    query_rows = np.arange(len(queries)) if query_rows is None else query_rows
    gallery_rows = np.arange(len(gallery)) if gallery_rows is None else gallery_rows
    right = torch.from_numpy(right_columns(query_rows, gallery_rows)).to(queries.device)
    queries, gallery = queries.float(), gallery.float()
    sizes = sorted(dims or [queries.shape[1]])
    if sizes[-1] > min(queries.shape[1], gallery.shape[1]):
        raise ValueError(f"dim {sizes[-1]} of embeddings {queries.shape[1]} wide")
    # the query's own norm orders nothing
    norms = {d: gallery[:, :d].norm(dim=1).clamp(min=1e-12) for d in sizes}
    ranks = {d: [] for d in sizes}
    for part, columns in zip(queries.split(chunk), right.split(chunk), strict=True):
        product, start = part.new_zeros(len(part), len(gallery)), 0
        scores = torch.empty_like(product)
        for d in sizes:
            product.addmm_(part[:, start:d], gallery[:, start:d].T)
            torch.div(product, norms[d], out=scores)
            ranks[d].append(_ranks_(scores, columns))
            start = d
    found = np.stack([torch.cat(ranks[d]).cpu().numpy() for d in dims or sizes])
    return found if dims else found[0]


def _ranks_(scores: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """scores (Q, G), which is overwritten, right (Q, R) -> (Q,) wrong items not below the best
    right one."""
    there = right >= 0
    own = scores.gather(1, right.clamp(min=0)).masked_fill(~there, -torch.inf)  # (Q, R)
    best = own.amax(1, keepdim=True)
    # a sum of floats, where they lie, is four times as fast as one of new booleans
    below = torch.lt(scores, best, out=scores).sum(1).long() - ((own < best) & there).sum(1)
    return scores.shape[1] - below - there.sum(1)


def right_columns(query_rows: np.ndarray, gallery_rows: np.ndarray) -> np.ndarray:
    """(Q, R) the gallery items of each query's row, -1 where there are fewer than the most."""
    order = np.argsort(gallery_rows, kind="stable")
    first, last = (np.searchsorted(gallery_rows[order], query_rows, s) for s in ("left", "right"))
    places = first[:, None] + np.arange(max(1, (last - first).max(initial=0)))
    return np.where(places < last[:, None], order[places.clip(max=len(order) - 1)], -1)


def recall_table(
    embeddings: dict[str, torch.Tensor],
    rows: dict[str, np.ndarray],
    dims: list[int],
    ks: list[int],
    groups: np.ndarray,
    bootstrap: int = 0,
    pairs: list[tuple[str, str]] | None = None,
    strict: bool = False,
) -> pd.DataFrame:
    """R@k of each pair of modalities, both ways, at each dim, with 95% bootstrap intervals.

    embeddings: modality -> (N_m, D), of which the first d columns are used for dim d.
    rows: modality -> (N_m,) the table row each embedding comes from.
        A query whose row has no item in the gallery (it was skipped) is not asked.
    groups: (rows of the table,) rows that are edits of one another; resampled together.
    pairs: of modalities; all of them by default.
    strict: ask for each right item on its own, its siblings counting as wrong: of an image with
        five captions, each must beat the other four. By default any of them is a hit (COCO's rule).
    Columns: query, gallery, dim, k, recall, low, high, rows (gallery size), rule.
    """
    records = []
    pairs = pairs or list(combinations(embeddings, 2))
    for query, gallery in (way for a, b in pairs for way in ((a, b), (b, a))):
        right = right_columns(rows[query], rows[gallery])
        several = right.shape[1] > 1
        asked, target = np.nonzero(right >= 0 if strict else right[:, :1] >= 0)
        rule = "any hit of several" if several else "one right answer"
        rule = "each of several on its own" if several and strict else rule
        a, b = embeddings[query][asked], embeddings[gallery]
        known = rows[query][asked], rows[gallery]
        if strict:
            known = right[asked, target], np.arange(len(b))
        ranks = retrieval_ranks(a, b, *known, dims)
        for dim, rank in zip(dims, ranks, strict=True):
            for k in ks:
                hits = rank < k
                low, high = bootstrap_interval(hits, groups[rows[query][asked]], bootstrap)
                record = (query, gallery, dim, k, hits.mean(), low, high, len(b), rule)
                records.append(record)
    columns = ["query", "gallery", "dim", "k", "recall", "low", "high", "rows", "rule"]
    return pd.DataFrame(records, columns=columns)


def recall_metrics(recall: pd.DataFrame, split: str) -> dict[str, float]:
    """Flat names: test.vision_to_text.r1 (at the full dim), test.vision_to_text.r1.dim64, ..."""
    metrics = {}
    for row in recall.itertuples():
        name = f"{split}.{row.query}_to_{row.gallery}.r{row.k}"
        metrics[f"{name}.dim{row.dim}"] = float(row.recall)
        if row.dim == recall.dim.max():
            metrics[name] = float(row.recall)
    return metrics


def pair_rows(
    embeddings: dict[str, torch.Tensor], rows: dict[str, np.ndarray]
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The first item of each modality for every row that has them all: {name: (N, D)}, (N,)."""
    first = {name: np.unique(owners, return_index=True) for name, owners in rows.items()}
    shared = None
    for owners, _ in first.values():
        shared = owners if shared is None else np.intersect1d(shared, owners)
    paired = {
        name: embeddings[name][places[np.isin(owners, shared)]]
        for name, (owners, places) in first.items()
    }
    return paired, shared
