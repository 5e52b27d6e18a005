"""Measures besides recall: which twins are confused; whether digits are bound to their places."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.metrics.contrasts import contrast_scores, example_scores
from edge_lib.metrics.scores import Embeddings
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
    """`contrast_scores` of swapped pairs: text, image and group score at each dim.

    images, texts (2P, D): rows 2p and 2p + 1 are two scenes with two digits exchanged.
    """
    return contrast_scores(example_scores(images, texts, dims), dims, bootstrap)


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
