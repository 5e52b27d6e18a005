"""Retrieval recall at every Matryoshka dim, with bootstrap intervals."""

from collections.abc import Sequence
from functools import reduce
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
    """(len(dims), Q) rank, from 0, of each query's best relevant gallery item, by the cosine over
    the first d columns for each d of `dims`; (Q,) over all columns without `dims`.

    queries (Q, D), gallery (G, D). A gallery item is relevant if it comes from the same table row
    as the query; of several relevant items the best counts (COCO's any-hit rule). Ties count
    against the query, so embeddings that collapsed to one point, or are NaN, have a recall of 0.
    """
    query_rows = np.arange(len(queries)) if query_rows is None else query_rows
    gallery_rows = np.arange(len(gallery)) if gallery_rows is None else gallery_rows
    relevant = torch.from_numpy(relevant_items(query_rows, gallery_rows)).to(queries.device)
    queries, gallery = queries.float(), gallery.float()
    sizes = sorted(dims or [queries.shape[1]])
    if sizes[-1] > (width := min(queries.shape[1], gallery.shape[1])):
        raise ValueError(f"dim {sizes[-1]} exceeds the embedding width {width}")
    # the query's norm does not change the order of its scores
    norms = {d: gallery[:, :d].norm(dim=1).clamp(min=1e-12) for d in sizes}
    ranks = {d: [] for d in sizes}
    for part, items in zip(queries.split(chunk), relevant.split(chunk), strict=True):
        product, start = part.new_zeros(len(part), len(gallery)), 0
        scores = torch.empty_like(product)
        for d in sizes:
            product.addmm_(part[:, start:d], gallery[:, start:d].T)
            torch.div(product, norms[d], out=scores)
            ranks[d].append(_ranks_(scores, items))
            start = d
    stacked = np.stack([torch.cat(ranks[d]).cpu().numpy() for d in dims or sizes])
    return stacked if dims else stacked[0]


def _ranks_(scores: torch.Tensor, relevant: torch.Tensor) -> torch.Tensor:
    """scores (Q, G), overwritten; relevant (Q, R), padded with -1 -> (Q,) number of other items
    that score at least as high as the best relevant one.
    """
    valid = relevant >= 0
    own = scores.gather(1, relevant.clamp(min=0)).masked_fill(~valid, -torch.inf)  # (Q, R)
    best = own.amax(1, keepdim=True)
    # summing floats in place is four times as fast as summing a new boolean tensor
    below = torch.lt(scores, best, out=scores).sum(1).long() - ((own < best) & valid).sum(1)
    return scores.shape[1] - below - valid.sum(1)


def relevant_items(query_rows: np.ndarray, gallery_rows: np.ndarray) -> np.ndarray:
    """(Q, R) indices of the gallery items from each query's table row, padded with -1."""
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
    """R@k between each pair of modalities, both ways, at each dim, with 95% bootstrap intervals.

    embeddings: modality -> (N_m, D); dim d uses the first d columns.
    rows: modality -> (N_m,) table row of each embedding. Queries whose row has no item in the
        gallery (it was skipped) are left out.
    groups: (rows of the table,) group of each table row, for the bootstrap.
    bootstrap: number of resamples; 0 for no interval.
    pairs: of modalities; all by default.
    strict: count each relevant item as a query of its own, with its siblings as wrong items: each
        of an image's five captions must rank above the other four. By default any of them is a hit.
    Columns: query, gallery, dim, k, recall, low, high, rows (gallery size), rule.
    """
    records = []
    pairs = pairs or list(combinations(embeddings, 2))
    for query, gallery in (direction for a, b in pairs for direction in ((a, b), (b, a))):
        relevant = relevant_items(rows[query], rows[gallery])
        several = relevant.shape[1] > 1
        index, column = np.nonzero(relevant >= 0 if strict else relevant[:, :1] >= 0)
        rule = "any hit of several" if several else "one right answer"
        rule = "each of several on its own" if several and strict else rule
        a, b, query_rows = embeddings[query][index], embeddings[gallery], rows[query][index]
        matched = query_rows, rows[gallery]
        if strict:
            matched = relevant[index, column], np.arange(len(b))
        ranks = retrieval_ranks(a, b, *matched, dims)
        for dim, rank in zip(dims, ranks, strict=True):
            for k in ks:
                hits = rank < k
                interval = bootstrap_interval(hits, groups[query_rows], bootstrap)
                records.append((query, gallery, dim, k, hits.mean(), *interval, len(b), rule))
    columns = ["query", "gallery", "dim", "k", "recall", "low", "high", "rows", "rule"]
    return pd.DataFrame(records, columns=columns)


def recall_metrics(recall: pd.DataFrame, split: str) -> dict[str, float]:
    """Recall by flat name: test.vision_to_text.r1 (full dim), test.vision_to_text.r1.dim64, ..."""
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
    """First embedding of each modality for every table row that has all modalities.

    embeddings: modality -> (N_m, D); rows: modality -> (N_m,). Returns {modality: (N, D)} and the
    rows (N,).
    """
    shared = reduce(np.intersect1d, map(np.unique, rows.values()))
    paired = {}
    for name, owners in rows.items():
        unique, first = np.unique(owners, return_index=True)
        paired[name] = embeddings[name][first[np.isin(unique, shared)]]
    return paired, shared
