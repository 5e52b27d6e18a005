"""Numbers: retrieval recall at every Matryoshka dim, bootstrap intervals, the swap probe."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F


def retrieval_ranks(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    query_rows: np.ndarray | None = None,
    gallery_rows: np.ndarray | None = None,
    chunk: int = 1024,
) -> np.ndarray:
    """(Q,) how many wrong gallery items score at least as high as the query's best right one.

    queries (Q, D), gallery (G, D), compared by cosine. A gallery item is right if it comes from
    the query's row (any of several counts: COCO's any-hit rule). Ties count against the query, so
    that embeddings that collapsed to one point, or are NaN, have a recall of 0.
    """
    query_rows = _rows(query_rows, len(queries)).to(queries.device)
    gallery_rows = _rows(gallery_rows, len(gallery)).to(queries.device)
    queries, gallery = F.normalize(queries.float(), dim=1), F.normalize(gallery.float(), dim=1)
    ranks = []
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ gallery.T
        right = query_rows[start : start + chunk, None] == gallery_rows
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        ranks.append((~(scores < best) & ~right).sum(1))
    return torch.cat(ranks).cpu().numpy()


def recall_table(
    embeddings: dict[str, torch.Tensor],
    rows: dict[str, np.ndarray],
    dims: list[int],
    ks: list[int],
    groups: np.ndarray,
    bootstrap: int = 0,
) -> pd.DataFrame:
    """R@k between each two modalities, both ways, at each dim, with 95% bootstrap intervals.

    embeddings: modality -> (N_m, D), of which the first d columns are used for dim d.
    rows: modality -> (N_m,) the table row each embedding comes from.
        A query whose row has no item in the gallery (it was skipped) is not asked.
    groups: (rows of the table,) rows that are edits of one another; resampled together.
    Columns: query, gallery, dim, k, recall, low, high, rows (gallery size), rule.
    """
    records = []
    for query in embeddings:
        for gallery in embeddings:
            if query == gallery:
                continue
            asked = np.isin(rows[query], rows[gallery])
            one = len(np.unique(rows[gallery])) == len(rows[gallery])
            rule = "one right answer" if one else "any hit of several"
            for dim in dims:
                a, b = embeddings[query][asked, :dim], embeddings[gallery][:, :dim]
                ranks = retrieval_ranks(a, b, rows[query][asked], rows[gallery])
                for k in ks:
                    hits = ranks < k
                    low, high = bootstrap_interval(hits, groups[rows[query][asked]], bootstrap)
                    record = (query, gallery, dim, k, hits.mean(), low, high, len(b), rule)
                    records.append(record)
    columns = ["query", "gallery", "dim", "k", "recall", "low", "high", "rows", "rule"]
    return pd.DataFrame(records, columns=columns)


def bootstrap_interval(
    values: np.ndarray, groups: np.ndarray, resamples: int, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of the mean of `values` (N,), resampling whole groups (N,).

    Twins share most of what makes them hard, so single rows are not independent. NaN if
    `resamples` is 0.
    """
    if not resamples:
        return float("nan"), float("nan")
    _, member = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(member, weights=values), np.bincount(member)
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def recall_metrics(recall: pd.DataFrame, split: str) -> dict[str, float]:
    """Flat names: test.vision_to_text.r1 (at the full dim), test.vision_to_text.r1.dim64, ..."""
    metrics = {}
    for row in recall.itertuples():
        name = f"{split}.{row.query}_to_{row.gallery}.r{row.k}"
        metrics[f"{name}.dim{row.dim}"] = float(row.recall)
        if row.dim == recall.dim.max():
            metrics[name] = float(row.recall)
    return metrics


def swap_scores(
    images: torch.Tensor, texts: torch.Tensor, dims: list[int], bootstrap: int = 0
) -> pd.DataFrame:
    """Winoground's text, image and group score (Thrush et al. 2022) of pairs, at each dim.

    images, texts (2P, D): rows 2p and 2p + 1 are a pair whose two digits exchanged places.
    Text score: for both images the right caption scores higher. Image score: for both captions
    the right image does. Group score: both. Chance is 1/4, 1/4 and 1/6.
    Columns: dim, score, value, low, high, chance.
    """
    records = []
    for dim in dims:
        a = F.normalize(images[:, :dim].float(), dim=1).unflatten(0, (-1, 2))
        b = F.normalize(texts[:, :dim].float(), dim=1).unflatten(0, (-1, 2))
        scores = a @ b.transpose(1, 2)  # (P, image, text)
        right = scores.diagonal(dim1=1, dim2=2)
        text = (right > scores.flip(2).diagonal(dim1=1, dim2=2)).all(1)
        image = (right > scores.flip(1).diagonal(dim1=1, dim2=2)).all(1)
        for name, hits, chance in (
            ("text", text, 1 / 4),
            ("image", image, 1 / 4),
            ("group", text & image, 1 / 6),
        ):
            hits = hits.cpu().numpy()
            low, high = bootstrap_interval(hits, np.arange(len(hits)), bootstrap)
            records.append((dim, name, hits.mean(), low, high, chance))
    return pd.DataFrame(records, columns=["dim", "score", "value", "low", "high", "chance"])


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


def _rows(rows: np.ndarray | None, count: int) -> torch.Tensor:
    return torch.arange(count) if rows is None else torch.as_tensor(rows)
