"""Figures of a searched collection: results in strips, labels, and the map of embeddings."""

import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from edge_lib.plots.style import (
    BARE_AXES,
    COLUMN,
    PAGE,
    draw_item,
    listed,
    modality_style,
    notice,
    styled,
    subplots,
    wrapped,
)

MOST_COLOURS = 10  # of labels in a legend; others are grey
COMPONENTS, ITERATIONS = 50, 500  # of t-SNE: 10,000 points take 20 s on two cores


@styled
def result_strips(results: pd.DataFrame, view, pictures=None):
    """A strip of items for each query, with cosines.

    results: columns query, rank (from 1), item, cosine and, optionally, note (below the cosine).
    view(item): the PIL image of an item, or a text in its place. pictures: query -> PIL image, of
    queries that have one. The table: `results`.
    """
    if results.empty:
        return notice("No results."), results
    queries, columns = list(dict.fromkeys(results["query"])), int(results["rank"].max())
    first = results[results["rank"] == 1]
    best = [f"{row.cosine:.2f} for {_line(row.query)}" for row in first.itertuples()]
    alt = f"Strips of up to {columns} items; the first has cosine {listed(best)}."
    options = {"gridspec_kw": {"width_ratios": [2.2] + [1] * columns}, "subplot_kw": BARE_AXES}
    figure, grid = subplots(alt, len(queries), 1 + columns, PAGE, 1.2 * len(queries), **options)
    for axes, query in zip(grid[:, 0], queries, strict=True):
        _draw_query(axes, query, (pictures or {}).get(query))
    for row in results.itertuples():
        axes = grid[queries.index(row.query), row.rank]
        draw_item(axes, view(row.item))
        axes.set_xlabel("\n".join([f"{row.cosine:.2f}", *_note(row)]), fontsize=8)
    return figure, results


def _line(query: str) -> str:
    return " ".join(wrapped(query, 40, 4).split())


def _note(row) -> list[str]:
    return [wrapped(row.note, 14, 2)] if getattr(row, "note", "") else []


def _draw_query(axes, query: str, picture) -> None:
    text = wrapped(query, 28, 4)
    if picture is None:
        axes.text(0, 0.5, text, va="center", transform=axes.transAxes)
    else:
        axes.imshow(picture)
        axes.set_xlabel(text, fontsize=8)


@styled
def label_confusion(known, given, labels):
    """How often items with a known label got each label.

    known, given (N,): numbers of labels. The table: known, given, count.
    """
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (np.asarray(known, int), np.asarray(given, int)), 1)
    right, total = int(np.trace(counts)), int(counts.sum())
    alt = f"Counts of given labels by known label: {right:,} of {total:,} agree."
    side = min(PAGE, 1.6 + 0.3 * len(labels))
    figure, [[axes]] = subplots(alt, 1, 1, side, side)
    names = [wrapped(label, 14, 1) for label in labels]
    style = {"cmap": "Blues", "cbar": False, "square": True, "annot": len(labels) <= 20, "fmt": "d"}
    sns.heatmap(counts, xticklabels=names, yticklabels=names, ax=axes, **style)
    axes.set(xlabel="given without training", ylabel="named by the caption")
    places = np.indices(counts.shape).reshape(2, -1)
    columns = dict(zip(("known", "given"), np.array(labels, object)[places], strict=True))
    return figure, pd.DataFrame({**columns, "count": counts.ravel()})


def layout(embeddings, seed: int = 0) -> np.ndarray:
    """Points (N, 2) by t-SNE of the embeddings (N, D), N >= 2, after PCA; neighbours stay
    neighbours.
    """
    vectors = np.asarray(embeddings, np.float32)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    # of equal vectors PCA gives NaN, on which scikit-learn crashes the process
    if np.ptp(vectors, axis=0).max() < 1e-4:
        return np.random.default_rng(seed).normal(size=(len(vectors), 2)).astype(np.float32)
    components = min(COMPONENTS, *vectors.shape)
    reduced = PCA(components, random_state=seed).fit_transform(vectors)
    perplexity = min(30.0, len(vectors) / 4)  # scikit-learn rejects larger ones
    model = TSNE(perplexity=perplexity, init="pca", max_iter=ITERATIONS, random_state=seed)
    return model.fit_transform(reduced)


@styled
def embedding_map(points: pd.DataFrame):
    """The map of `layout` without a browser: by modality and, if there is a column label, by label.

    points: columns x, y, modality and optionally label. The table: these, and row if it is there.
    """
    hues = [name for name in ("modality", "label") if name in points]
    modalities = dict.fromkeys(points["modality"])
    alt = f"t-SNE map of {len(points):,} items of {listed(modalities)}"
    alt += f", coloured by {listed(hues)}."
    figure, grid = subplots(alt, 1, len(hues), COLUMN * len(hues), 4.3)
    colours = {"modality": {name: modality_style(name)[0] for name in modalities}}
    drawn = points.sample(frac=1, random_state=0)  # shuffled: no modality hides another
    for axes, hue in zip(grid[0], hues, strict=True):
        values = drawn[hue] if hue == "modality" else _frequent(drawn[hue])
        palette = colours.get(hue) or _label_colours(values)
        order = {"palette": palette, "hue_order": [*palette]}
        style = {"s": 5, "lw": 0, "alpha": 0.6, "rasterized": True} | order
        sns.scatterplot(x=drawn["x"], y=drawn["y"], hue=values, ax=axes, **style)
        axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
        place = {"bbox_to_anchor": (0.5, 1), "ncols": 4, "markerscale": 3}
        sns.move_legend(axes, "lower center", title=hue, **place)
    return figure, points.filter(["modality", "row", "label", "x", "y"])


def _frequent(labels: pd.Series) -> pd.Series:
    """The most frequent labels; others become "other"."""
    kept = labels.value_counts().index[:MOST_COLOURS]
    return labels.where(labels.isin(kept), "other").map(lambda label: wrapped(label, 14, 1))


def _label_colours(labels: pd.Series) -> dict[str, object]:
    names = sorted(set(labels) - {"other"})
    others = {"other": "0.7"} if "other" in set(labels) else {}
    return dict(zip(names, sns.color_palette("tab10"), strict=False)) | others
