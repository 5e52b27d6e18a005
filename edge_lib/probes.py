"""What recall does not tell: which twins are confused, and whether digits are bound to places."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from edge_lib.evaluate import bootstrap_interval


def twin_confusions(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    groups: np.ndarray,
    edits: list[str],
    dims: list[int],
    chunk: int = 1024,
) -> pd.DataFrame:
    """What tells a query from the wrong item that it finds first, at each dim.

    queries, gallery (N, D): row by row a pair. groups (N,): twins share a number; the first of a
    group is the scene, and the k-th differs from it by `edits[k]`.
    Columns: dim, confused (an edit, "two edits" between twins of one scene, "another scene"),
    share (of all queries).
    """
    first = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    place = np.arange(len(groups)) - np.repeat(first, np.diff([*first, len(groups)]))
    records = []
    for dim in dims:
        a, b = F.normalize(queries[:, :dim].float()), F.normalize(gallery[:, :dim].float())
        found = torch.cat([(part @ b.T).argmax(1) for part in a.split(chunk)]).cpu().numpy()
        low, high = np.sort([place, place[found]], axis=0)
        kinds = np.where(low == 0, np.array(edits, dtype=object)[high], "two edits")
        kinds[groups != groups[found]] = "another scene"
        kinds = kinds[found != np.arange(len(found))]
        for kind in (*edits[1:], "two edits", "another scene"):
            records.append((dim, kind, (kinds == kind).sum() / len(found)))
    return pd.DataFrame(records, columns=["dim", "confused", "share"])


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
