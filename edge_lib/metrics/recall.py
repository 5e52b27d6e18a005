"""Retrieval recall at every Matryoshka dim, with bootstrap intervals.

Equal items, such as five recordings of one sentence with its caption each, are right answers for
one another.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.metrics.flat_names import metrics_by_dim
from edge_lib.metrics.scores import Embeddings, scores_by_dim

COLUMNS = ["query", "gallery", "dim", "k", "recall", "low", "high", "rows", "rule", "chance"]


def retrieval_ranks(
    queries: torch.Tensor | Embeddings,
    gallery: torch.Tensor | Embeddings,
    query_rows: np.ndarray | None = None,
    gallery_rows: np.ndarray | None = None,
    dims: Sequence[int] = (),
    chunk: int = 256,
    query_labels: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
) -> np.ndarray:
    """(len(dims), Q) rank, from 0, of each query's best relevant gallery item, by the cosine over
    the first d columns for each d of `dims`; (Q,) over all columns without `dims`.

    queries (Q, D), gallery (G, D), or `Embeddings` with scores of their own. A gallery item is
    relevant if it comes from the same table row as the query, or as `RelevantItems` has it with
    labels; of several relevant items the best counts (COCO's any-hit rule). Ties count against the
    query, so embeddings that collapsed to one point, or are NaN, have a recall of 0.
    """
    query_rows = np.arange(len(queries)) if query_rows is None else query_rows
    gallery_rows = np.arange(len(gallery)) if gallery_rows is None else gallery_rows
    relevant = RelevantItems(query_rows, gallery_rows, query_labels, gallery_labels)
    sizes = sorted(dims or [queries.shape[1]])
    ranks = {d: [] for d in sizes}
    for first in range(0, max(1, len(queries)), chunk):
        part = queries[first : first + chunk]
        items = torch.from_numpy(relevant(first, first + chunk))
        for d, scores in zip(sizes, scores_by_dim(part, gallery, sizes), strict=True):
            ranks[d].append(_ranks_(scores, items.to(scores.device)))
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


class Places:
    """Finds all places of a value in an array."""

    def __init__(self, values: np.ndarray):
        self.order = np.argsort(values, kind="stable")
        self.ordered = values[self.order]

    def span(self, values: np.ndarray) -> list[np.ndarray]:
        """(n,) the first index in `order` of the places of each of n values, and (n,) the end."""
        return [np.searchsorted(self.ordered, values, side) for side in ("left", "right")]

    def counts(self, values: np.ndarray) -> np.ndarray:
        """(n,) the number of places of each of n values."""
        first, last = self.span(values)
        return last - first

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(n, R) the places of n values, padded with -1."""
        first, last = self.span(values)
        places = first[:, None] + np.arange(max(1, (last - first).max(initial=0)))
        if not len(self.order):
            return np.full(places.shape, -1)
        return np.where(
            places < last[:, None], self.order[places.clip(max=len(self.order) - 1)], -1
        )


class RelevantItems:
    """The gallery items that are right for a query: those of its table row, and those equal to one
    that is right for the query or for an equal query.

    Rows and labels (equal numbers for equal items; all differ by default) are those of the queries
    (Q,) and of the gallery (G,).
    """

    def __init__(self, query_rows, gallery_rows, query_labels=None, gallery_labels=None):
        self.queries = np.arange(len(query_rows)) if query_labels is None else query_labels
        gallery = np.arange(len(gallery_rows)) if gallery_labels is None else gallery_labels
        items = Places(gallery_rows)(query_rows)
        index, column = np.nonzero(items >= 0)
        pairs = {"query": self.queries[index], "answer": gallery[items[index, column]]}
        by_query, self.answers = pd.DataFrame(pairs).drop_duplicates().to_numpy().T
        self.answer_places, self.item_places = Places(by_query), Places(gallery)

    def __call__(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, R) gallery indices of the queries' relevant items, padded with -1."""
        answers = self.answer_places(self.queries[start:stop])
        if not len(self.answers):
            return answers
        items = self.item_places(self.answers[answers.ravel()])
        items[answers.ravel() < 0] = -1
        return items.reshape(len(answers), -1)

    def counts(self) -> np.ndarray:
        """(Q,) the number of each query's relevant items."""
        items = self.item_places.counts(self.answers)[self.answer_places.order]
        total = np.concatenate([[0], np.cumsum(items)])
        first, last = self.answer_places.span(self.queries)
        return total[last] - total[first]


def chance_recall(relevant: np.ndarray, gallery: int, k: int) -> float:
    """The expected R@k of a random order of the gallery, for queries with `relevant` (Q,) right
    answers in it: at k = 1, the mean of relevant / gallery.
    """
    drawn = np.arange(min(k, gallery))
    wrong = (gallery - np.asarray(relevant)[:, None] - drawn).clip(0) / (gallery - drawn)
    return float(1 - wrong.prod(1).mean())


def overlap(rows: np.ndarray | torch.Tensor, exact: np.ndarray | torch.Tensor) -> float:
    """The share of exact results (Q, k) that are among the retrieved rows (Q, k)."""
    pairs = zip(np.asarray(rows), np.asarray(exact), strict=True)
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in pairs]))


def recall_table(
    embeddings: dict[str, torch.Tensor | Embeddings],
    rows: dict[str, np.ndarray],
    dims: list[int],
    ks: list[int],
    groups: np.ndarray,
    bootstrap: int = 0,
    pairs: list[tuple[str, str]] | None = None,
    strict: bool = False,
    labels: dict[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """R@k between each pair of modalities, both ways, at each dim, with 95% bootstrap intervals.

    embeddings: modality -> (N_m, D), or `Embeddings`; dim d uses the first d columns.
    rows: modality -> (N_m,) table row of each embedding. Queries whose row has no item in the
        gallery (it was skipped) are left out.
    groups: (rows of the table,) group of each table row, for the bootstrap.
    bootstrap: number of resamples; 0 for no interval.
    pairs: of modalities; all by default.
    strict: count each relevant item as a query of its own, with its siblings as wrong items: each
        of an image's five captions must rank above the other four. By default any of them is a hit.
    labels: modality -> (N_m,) equal numbers for equal items, which are right answers for one
        another. By default all differ.
    Columns: query, gallery, dim, k, recall, low, high, rows (gallery size), rule (which tells
    how many items equal another), chance (`chance_recall`).
    """
    records = []
    pairs = pairs or list(combinations(embeddings, 2))
    labels = labels or {name: np.arange(len(x)) for name, x in embeddings.items()}
    equal = {name: _repeated(x) for name, x in labels.items()}
    for query, gallery in (direction for a, b in pairs for direction in ((a, b), (b, a))):
        own = Places(rows[gallery])(rows[query])
        index, column = np.nonzero(own >= 0 if strict else own[:, :1] >= 0)
        # an equal query has several right items: all of them, but when strict its own alone
        several = own.shape[1] > 1 or (strict and equal[query] > 0)
        rule = _rule(several, strict, equal[query] + equal[gallery])
        a, b, query_rows = embeddings[query][index], embeddings[gallery], rows[query][index]
        matched = {"query_rows": query_rows, "gallery_rows": rows[gallery]}
        matched |= {"query_labels": labels[query][index], "gallery_labels": labels[gallery]}
        if strict:
            target = labels[gallery][own[index, column]]
            matched = {"query_rows": target, "gallery_rows": labels[gallery]}
        relevant = RelevantItems(**matched).counts()
        chance = {k: chance_recall(relevant, len(b), k) for k in ks}
        ranks = retrieval_ranks(a, b, dims=dims, **matched)
        for dim, rank in zip(dims, ranks, strict=True):
            for k in ks:
                hits = rank < k
                interval = bootstrap_interval(hits, groups[query_rows], bootstrap)
                scores = hits.mean(), *interval, len(b), rule, chance[k]
                records.append((query, gallery, dim, k, *scores))
    return pd.DataFrame(records, columns=COLUMNS)


def _repeated(labels: np.ndarray) -> int:
    """The number of items that equal another."""
    counts = np.unique(labels, return_counts=True)[1]
    return int(counts[counts > 1].sum())


def _rule(several: bool, strict: bool, equal: int) -> str:
    rule = "any hit of several" if several else "one right answer"
    rule = "each of several on its own" if several and strict else rule
    return f"{rule}, {equal:,} items equal another" if equal else rule


def recall_metrics(recall: pd.DataFrame, split: str) -> dict[str, float]:
    """Recall by flat name: test.vision_to_text.r1 (full dim), test.vision_to_text.r1.dim64, ..."""
    return metrics_by_dim(
        recall, lambda row: f"{split}.{row.query}_to_{row.gallery}.r{row.k}", "recall"
    )


def pair_rows(
    embeddings: dict[str, torch.Tensor], rows: dict[str, np.ndarray], keys: np.ndarray | None = None
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """First embedding of each modality for every table row that has all modalities.

    embeddings: modality -> (N_m, D); rows: modality -> (N_m,); keys: (rows of the table,), of rows
    with equal ones the first counts. Returns {modality: (N, D)} and the rows (N,), ascending.
    """
    shared = reduce(np.intersect1d, map(np.unique, rows.values()))
    if keys is not None:
        shared = shared[np.sort(np.unique(keys[shared], return_index=True)[1])]
    paired = {}
    for name, owners in rows.items():
        unique, first = np.unique(owners, return_index=True)
        paired[name] = embeddings[name][first[np.isin(unique, shared)]]
    return paired, shared
