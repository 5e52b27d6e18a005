"""Notebook 08: search a table by text, picture and sound, and sort it without labels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from edge_lib.config import MODALITIES, ConfigError, QueryConfig, SearchConfig, from_root
from edge_lib.config.registry import load_registered
from edge_lib.data.skipped import Skipped
from edge_lib.data.table import Table
from edge_lib.features.store import FeatureStore
from edge_lib.models import Aligner
from edge_lib.search import MatryoshkaIndex, MixedIndex

MAX_SCORES = 1 << 24  # cosines in memory at once


def present_modalities(aligner: Aligner, table: Table, search: SearchConfig) -> list[str]:
    """The aligner's modalities that the table has. ConfigError if the gallery is not among them,
    and for heads with a vector for each token.
    """
    aligner.check_pooled("a Matryoshka index")
    names = [name for name in aligner.modalities if table.has(MODALITIES[name].column).any()]
    if search.gallery not in names:
        allowed = ", ".join(names) or "nothing that the aligner embeds"
        raise ConfigError(f"search.gallery: no {search.gallery} in {table.name}; it has {allowed}")
    if search.labels and "text" not in aligner.modalities:
        raise ConfigError("search.labels: the aligner has no text")
    return names


def embed_query(aligner: Aligner, query: QueryConfig, table: Table) -> Tensor:
    """(D,) the sum of the unit embeddings of what is added, less those of what is subtracted.

    ConfigError for a modality that the aligner lacks, and for what is neither the id of a row with
    such an item nor a file that can be decoded.
    """
    total = torch.zeros(aligner.width)
    for sign, items in ((1, query.plus), (-1, query.minus)):
        for modality, names in items.items():
            if modality not in aligner.modalities:
                allowed = ", ".join(aligner.modalities)
                raise ConfigError(f"search.queries: the aligner has no {modality}, only {allowed}")
            inputs = [query_input(table, modality, name) for name in names]
            total += sign * F.normalize(aligner.embed(modality, inputs).cpu(), dim=1).sum(0)
    return total


def query_input(table: Table, modality: str, name: str):
    """A text as it is; else the item of the row with this id, or the one in a file."""
    if MODALITIES[modality].decode is None:
        return name
    if (row := find_row(table, name)) is not None:
        (item,) = table.try_decode(modality, [row])
        if isinstance(item, Skipped):
            raise ConfigError(f"search.queries: {name} of {table.name}: {item.reason}")
        return item
    if not from_root(name).is_file():
        raise ConfigError(f"search.queries: {name!r} is neither an id in {table.name} nor a file")
    try:
        return load_registered(MODALITIES[modality].decode)(from_root(name).read_bytes())
    except Exception as error:  # decoders raise nearly anything on a broken file
        raise ConfigError(f"search.queries: {name} is no {modality} file: {error}") from None


def find_row(table: Table, name: str) -> int | None:
    """The first row with this id; a row without one is known by its number."""
    row = pc.index(table.arrow("id"), name).as_py()
    if row < 0 and name.isdecimal() and int(name) < len(table):
        row = int(name) if table.ids[int(name)] == name else -1
    return None if row < 0 else row


def query_title(query: QueryConfig, table: Table) -> str:
    """A line for each item: "“a red three”", "− vision cat.png", "audio 7: one two"."""
    return "\n".join(
        sign + _item_title(modality, name, table)
        for sign, items in (("", query.plus), ("− ", query.minus))
        for modality, names in items.items()
        for name in names
    )


def _item_title(modality: str, name: str, table: Table) -> str:
    """A text, or a file or id: that of a sound, which no figure shows, with its row's caption."""
    if modality == "text":
        return f"“{name}”"
    row, texts = find_row(table, name) if modality == "audio" else None, table.texts("texts")
    captions = [] if row is None else texts[slice(*np.searchsorted(texts.rows, [row, row + 1]))]
    return ": ".join([f"{modality} {name}", *captions[:1]])


def query_picture(table: Table, query: QueryConfig) -> Image | None:
    """The first picture of a query, to be shown beside its results."""
    names = query.plus.get("vision")
    return query_input(table, "vision", names[0]) if names else None


def list_items(
    table: Table,
    stores: dict[str, FeatureStore],
    embeddings: dict[str, Tensor],
    rows: dict[str, np.ndarray],
) -> tuple[pd.DataFrame, Tensor]:
    """The items of `embed_table` in one table, and their embeddings (M, D) in its order; an image
    that rows share is one item.

    Columns: modality, row, id, group and caption: of a text itself, else the row's first.
    """
    parts, vectors = [], []
    texts = table.texts("texts")  # no skip without them
    first = dict(zip(*np.unique(texts.rows, return_index=True), strict=True))
    for name, own_rows in rows.items():
        numbers = table.row_items(name, stores[name].valid)[0]
        if name != "text":
            numbers = np.array([first.get(row, -1) for row in own_rows], int)
        kept = np.flatnonzero(np.isin(own_rows, table.item_rows(name)))
        captions = [texts[n] if n >= 0 else "" for n in numbers[kept]]
        parts.append(pd.DataFrame({"modality": name, "row": own_rows[kept], "caption": captions}))
        vectors.append(embeddings[name][kept])
    items = pd.concat(parts, ignore_index=True)
    items["id"] = table.ids.take(items["row"])
    return items.assign(group=table.groups[items["row"]]), torch.cat(vectors)


def item_view(table: Table, items: pd.DataFrame, number: int) -> Image | str:
    """What is drawn for an item: its row's picture, else its caption or id."""
    item = items.iloc[number]
    picture = table.images([item.row])[0] if table.has("image")[item.row] else None
    return picture or item.caption or item.id


def search_results(
    index: MatryoshkaIndex, queries: Sequence[Tensor], names: Sequence[str], top: int
) -> pd.DataFrame:
    """The `top` items of each query (D,): columns query, rank, item (row of the index), cosine."""
    none = torch.zeros(0, index.dims[-1])
    hits = index.search(torch.stack([*queries]) if queries else none, top)
    count = hits.rows.shape[1]
    return pd.DataFrame(
        {
            "query": np.repeat([*names], count),
            "rank": np.tile(np.arange(1, count + 1), len(names)),
            "item": hits.rows.flatten().numpy(),
            "cosine": hits.scores.flatten().numpy(),
        }
    )


def query_pairs(rows: dict[str, np.ndarray], gallery: str) -> list[tuple[str, str]]:
    """The gallery's modality with each other one, of which some item shares a row with it."""
    return [
        (name, gallery)
        for name, own in rows.items()
        if name != gallery and np.isin(own, rows[gallery]).any()
    ]


def mixed_scores(
    embeddings: dict[str, Tensor], rows: dict[str, np.ndarray], dims: Sequence[int], top: int
) -> pd.DataFrame:
    """Each item of `embed_table` searches one gallery of all modalities but for itself, as it is,
    centered, and centered and standardized.

    Columns: query (its modality), center, standardize, right (share whose first result is an item
    of the same row in another modality), other (share of other modalities among the first `top`).
    """
    index = MixedIndex(embeddings, dims)
    options = [(False, False), (True, False), (True, True)]
    parts = [(name, *option) for name in embeddings for option in options]
    scores = [_mixed_scores(index, rows, top, *part) for part in parts]
    columns = ["query", "center", "standardize", "right", "other"]
    return pd.DataFrame([part + s for part, s in zip(parts, scores, strict=True)], columns=columns)


def _mixed_scores(
    index: MixedIndex, rows: dict[str, np.ndarray], top: int, query: str, *options: bool
) -> tuple[float, float]:
    """`right` and `other` of the items of one modality."""
    hits = index.search(index.parts[query], top + 1, query, None, *options)
    modality, place = (part.numpy() for part in index.locate(hits.rows))
    other = modality != index.names.index(query)
    itself = ~other & (place == np.arange(len(place))[:, None])
    itself[:, -1] |= ~itself.any(1)  # equal items may come before it
    result_rows = np.concatenate([*rows.values()])[hits.rows]
    right = other & (result_rows == rows[query][:, None])
    first = (~itself).argmax(1)
    return float(right[np.arange(len(right)), first].mean()), float(other[~itself].mean())


def near_duplicates(
    embeddings: Tensor, threshold: float, limit: int = 1000
) -> tuple[pd.DataFrame, int]:
    """Pairs of rows of (N, D) with a cosine of at least `threshold`: the `limit` most similar
    (columns first, second, cosine), and how many there are. Memory does not grow with N squared.
    """
    unit = F.normalize(embeddings.float(), dim=1)
    best, count, size = np.zeros((0, 3)), 0, max(1, MAX_SCORES // len(unit))
    for start in range(0, len(unit), size):
        scores = unit[start : start + size] @ unit[start:].T  # with itself and later rows
        square = scores[:, : len(scores)]
        square.masked_fill_(torch.ones_like(square, dtype=torch.bool).tril(), -torch.inf)
        count += int((scores >= threshold - 1e-6).sum())
        cosines, places = scores.flatten().topk(min(limit, scores.numel()))
        row, column = places // scores.shape[1], places % scores.shape[1]
        new = torch.stack([start + row, start + column, cosines], 1).double()
        best = np.concatenate([best, new[cosines >= threshold - 1e-6].numpy()])
        best = best[np.lexsort((best[:, 1], best[:, 0], -best[:, 2]))][:limit]
    pairs = pd.DataFrame(best, columns=["first", "second", "cosine"])
    return pairs.astype({"first": int, "second": int}), count


def nearest_cosines(index: MatryoshkaIndex, embeddings: Tensor) -> np.ndarray:
    """(N,) the cosine of each row of the index (whose embeddings these are) to its nearest other
    row; an outlier has a low one. NaN for a single row.
    """
    if len(index) < 2:
        return np.full(len(index), np.nan)
    scores, rows = index.search(embeddings, 2)
    first_is_own = rows[:, 0] == torch.arange(len(rows))
    return torch.where(first_is_own, scores[:, 1], scores[:, 0]).numpy()


def best_of_labels(numbers, cosines, labels: Sequence[str], top: int) -> pd.DataFrame:
    """The `top` items of each label that any item got, as of `search_results`."""
    given = pd.DataFrame({"item": np.arange(len(numbers)), "label": numbers, "cosine": cosines})
    given = given.sort_values(["label", "cosine"], ascending=[True, False], kind="stable")
    given["rank"] = given.groupby("label").cumcount() + 1
    best = given[given["rank"] <= top]
    return best.assign(query=[labels[number] for number in best["label"]])


def pair_results(pairs: pd.DataFrame, top: int) -> pd.DataFrame:
    """The first pairs of `near_duplicates`, one item above the other, as of `search_results`."""
    shown = pairs.head(top).assign(rank=range(1, 1 + min(top, len(pairs))))
    melted = shown.melt(["rank", "cosine"], var_name="query", value_name="item")
    return melted.replace({"query": {"first": "one of a pair", "second": "the other"}})


def outlier_results(nearest: np.ndarray, top: int) -> pd.DataFrame:
    """The items with the lowest cosine to their nearest neighbour, as of `search_results`."""
    outliers = np.argsort(nearest, kind="stable")[:top]
    title = "farthest from its nearest neighbour, whose cosine is below"
    columns = {"query": title, "rank": range(1, 1 + len(outliers)), "item": outliers}
    return pd.DataFrame(columns | {"cosine": nearest[outliers]})


def sample_rows(items: pd.DataFrame, limit: int, seed: int) -> np.ndarray:
    """Numbers of at most `limit` items, those of whole rows, drawn at random."""
    rows, counts = np.unique(items["row"], return_counts=True)
    order = np.random.default_rng(seed).permutation(len(rows))
    kept = rows[order[np.cumsum(counts[order]) <= limit]]
    return np.flatnonzero(items["row"].isin(kept))
