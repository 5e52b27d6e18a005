"""What recall does not tell: which twins are confused, and whether digits are bound to places."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.sources import load_table
from edge_lib.sources.scenes.scene import COLOURS, DIGITS, PLACES


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


def parse_things(caption: str) -> set[tuple[int, str, int]]:
    """Digit, colour and cell of each thing that a scene's caption names, in any phrasing."""
    found = set()
    for phrase in re.split(r",\s*|\s+and\s+", caption):
        words = phrase.split()
        digits = [n for n, name in enumerate(DIGITS) if name in words or str(n) in words]
        colours = [colour for colour in COLOURS if colour in words]
        # "at the top left" holds "at the top"
        cells = [cell for cell, place in enumerate(PLACES) if place in phrase]
        cells.sort(key=lambda cell: -len(PLACES[cell]))
        if len(digits) == len(colours) == 1 and cells:
            found.add((digits[0], colours[0], cells[0]))
    return found


def caption_facts(scored: pd.DataFrame) -> dict[str, float]:
    """Of the captions in a `generate_answers`: the share of things named with digit, colour and place
    right (recall), and of those named that are there (precision). Nothing where captions are not
    of scenes.
    """
    pairs = _things(scored)
    right = sum(len(there & named) for there, named in pairs)
    there, named = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    if not there:
        return {}
    shares = {"recall": right / there, "precision": right / max(named, 1)}
    return shares | {"things": there, "named": named}


def things_wrong(scored: pd.DataFrame) -> np.ndarray:
    """(N,) things that each caption in a `generate_answers` leaves out or makes up."""
    return np.array([len(there ^ named) for there, named in _things(scored)])


def _things(scored: pd.DataFrame) -> list[tuple[set, set]]:
    """Those that are there, and those that each caption names."""
    pairs = zip(scored.reference, scored.answer, strict=True)
    return [(parse_things(reference), parse_things(answer)) for reference, answer in pairs]


def swap_metrics(config: DataConfig, embed: Callable[[Table], dict], dims: list[int]) -> dict:
    """The swap probe's metrics by dim, of an aligner that has vision and text."""
    embeddings = embed(load_table(config, "swap"))
    if not {"vision", "text"} <= embeddings.keys():
        return {}
    scores = swap_scores(embeddings["vision"], embeddings["text"], dims)
    return {f"swap.{row.score}.dim{row.dim}": row.value for row in scores.itertuples()}
