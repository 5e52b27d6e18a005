"""Measures besides recall: which twins are confused; whether digits are bound to their places."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.metrics.scores import Embeddings, scores_by_dim
from edge_lib.sources import load_table


def twin_confusions(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    groups: np.ndarray,
    edits: list[str],
    dims: list[int],
    chunk: int = 1024,
) -> pd.DataFrame:
    """How queries differ from the items that they wrongly retrieve first, at each dim.

    queries, gallery (N, D): rows with the same index are a pair. groups (N,): twins share a number;
    the first of a group is the scene, and the k-th differs from it by `edits[k]`.
    Columns: dim, confused (an edit; "two edits": another twin of the scene; "another scene"),
    share (of all queries).
    """
    first = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    member = np.arange(len(groups)) - np.repeat(first, np.diff([*first, len(groups)]))
    records = []
    for dim in dims:
        top = _nearest(queries[:, :dim], gallery[:, :dim], chunk)
        low, high = np.sort([member, member[top]], axis=0)
        kinds = np.where(low == 0, np.array(edits, dtype=object)[high], "two edits")
        kinds[groups != groups[top]] = "another scene"
        kinds = kinds[top != np.arange(len(top))]
        for kind in (*edits[1:], "two edits", "another scene"):
            records.append((dim, kind, (kinds == kind).sum() / len(top)))
    return pd.DataFrame(records, columns=["dim", "confused", "share"])


def swap_scores(
    images: torch.Tensor | Embeddings,
    texts: torch.Tensor | Embeddings,
    dims: list[int],
    bootstrap: int = 0,
) -> pd.DataFrame:
    """Winoground's text, image and group score (Thrush et al. 2022) of swapped pairs, at each dim.

    images, texts (2P, D): rows 2p and 2p + 1 are two scenes with two digits exchanged.
    Text score: for both images the right caption scores higher. Image score: for both captions
    the right image scores higher. Group score: both. Chance is 1/4, 1/4 and 1/6.
    Columns: dim, score, value, low, high, chance.
    """
    records = []
    for dim, scores in zip(dims, _pair_scores(images, texts, dims), strict=True):
        for name, hits, chance in _swap_hits(scores):
            low, high = bootstrap_interval(hits, np.arange(len(hits)), bootstrap)
            records.append((dim, name, hits.mean(), low, high, chance))
    return pd.DataFrame(records, columns=["dim", "score", "value", "low", "high", "chance"])


def swap_metrics(config: DataConfig, embed: Callable[[Table], dict], dims: list[int]) -> dict:
    """The swap scores of an aligner at each dim; empty unless it has vision and text."""
    embeddings = embed(load_table(config, "swap"))
    if not {"vision", "text"} <= embeddings.keys():
        return {}
    scores = swap_scores(embeddings["vision"], embeddings["text"], dims)
    return {f"swap.{row.score}.dim{row.dim}": row.value for row in scores.itertuples()}


def _nearest(queries: torch.Tensor, gallery: torch.Tensor, chunk: int) -> np.ndarray:
    """(N,) index of the most similar gallery item for each query, by cosine."""
    a, b = F.normalize(queries.float()), F.normalize(gallery.float())
    return torch.cat([(part @ b.T).argmax(1) for part in a.split(chunk)]).cpu().numpy()


def _pair_scores(images, texts, dims: list[int], chunk: int = 128) -> list[torch.Tensor]:
    """Scores (P, image, text) within each pair, at each dim."""
    order, parts = sorted(dims), []
    for start in range(0, len(images), 2 * chunk):
        rows = slice(start, start + 2 * chunk)
        scores = scores_by_dim(images[rows], texts[rows], order)
        blocks = (s.unflatten(1, (-1, 2)).unflatten(0, (-1, 2)) for s in scores)
        parts.append([s.diagonal(dim1=0, dim2=2).permute(2, 0, 1).clone() for s in blocks])
    by_dim = dict(zip(order, map(torch.cat, zip(*parts, strict=True)), strict=True))
    return [by_dim[dim] for dim in dims]


def _swap_hits(scores: torch.Tensor) -> Iterator[tuple[str, np.ndarray, float]]:
    """scores (P, image, text) -> name, hits (P,) and chance of each swap score."""
    right = scores.diagonal(dim1=1, dim2=2)
    text = (right > scores.flip(2).diagonal(dim1=1, dim2=2)).all(1)
    image = (right > scores.flip(1).diagonal(dim1=1, dim2=2)).all(1)
    yield "text", text.cpu().numpy(), 1 / 4
    yield "image", image.cpu().numpy(), 1 / 4
    yield "group", (text & image).cpu().numpy(), 1 / 6
