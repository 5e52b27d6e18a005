"""Figures of retrieval: recall by dim, the shared space, images retrieved by text and by voice."""

from itertools import permutations

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from scipy.signal import spectrogram
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances_argmin as nearest
from threadpoolctl import threadpool_limits

from edge_lib.plots.style import (
    BARE_AXES,
    COLUMN,
    GREY,
    HIT_COLOUR,
    PAGE,
    direction_style,
    draw_item,
    listed,
    modality_style,
    notice,
    styled,
    subplots,
    whiskers,
    wrapped,
)

WINDOW = 512  # samples


@styled
def recall_by_dim(recall: pd.DataFrame):
    """R@k by the number of Matryoshka dims kept, one panel for each pair of modalities.

    recall: of `recall_table`. The table: `recall` by dim.
    """
    table = recall.sort_values("dim", kind="stable")
    panels = table.groupby(table[["query", "gallery"]].apply(frozenset, axis=1), sort=False)
    width = COLUMN if len(panels) < 2 else PAGE
    figure, grid = subplots(_recall_alt(table), 1, len(panels), width, 3.3, sharey=True)
    lines = {}
    for axes, (_, part) in zip(grid[0], panels, strict=True):
        _recall_panel(axes, part)
        axes.tick_params(axis="x", rotation=90 if len(panels) > 1 else 0)
        lines |= {line.get_label(): line for line in axes.get_legend_handles_labels()[0]}
    grid[0, 0].set(ylabel="recall (share of queries)", ylim=(0, None))
    names = sorted(lines, key=lambda name: "→" not in name)
    figure.legend(map(lines.get, names), names, loc="outside lower center", ncols=1 + len(panels))
    return figure, table


def _recall_alt(table: pd.DataFrame) -> str:
    k, full = table["k"].min(), table["dim"].max()
    best = table[(table["k"] == k) & (table["dim"] == full)]
    values = [f"{row.query} to {row.gallery} {row.recall:.2f}" for row in best.itertuples()]
    ks = listed(f"R@{value}" for value in sorted(table["k"].unique()))
    return f"{ks} at {listed(table['dim'].unique())} dims; R@{k} at {full}: {listed(values)}."


def _recall_panel(axes, part: pd.DataFrame) -> None:
    weights = {}, {"lw": 0.9, "mfc": "white", "alpha": 0.7}, {"lw": 0.6, "ms": 1.5, "alpha": 0.7}
    for number, (k, at_k) in enumerate(part.groupby("k")):
        weight = weights[min(number, 2)]
        for direction, line in at_k.groupby(["query", "gallery"], sort=False):
            style = direction_style(*direction) | weight | ({"label": "_"} if number else {})
            axes.plot("dim", "recall", data=line, **style)
            if number == 0:
                interval = line["dim"], line["low"], line["high"]
                axes.fill_between(*interval, color=style["color"], alpha=0.15, lw=0)
                axes.vlines(*interval, color=style["color"], lw=0.8)
        label = f"R@{k}" if number else f"R@{k}, 95% interval"
        axes.plot([], [], label=label, **{"color": GREY, "marker": "o", **weight})
        if number == 0:
            for chance in at_k["chance"].unique():
                axes.axhline(chance, color=GREY, ls=":", label=f"chance R@{k} ({chance:.2g})")
    axes.set_xscale("log", base=2)
    axes.set_xticks(part["dim"].unique(), part["dim"].unique())
    axes.minorticks_off()
    sizes = " or ".join(f"{rows:,}" for rows in part["rows"].unique())
    axes.set_title(f"gallery of {sizes},\n{', '.join(part['rule'].unique())}")
    axes.set_xlabel("dims kept")


@styled
def tsne(embeddings, labels=None, perplexity=30.0, seed=0, rows=400, label_name="label"):
    """Joint t-SNE (van der Maaten & Hinton 2008) of all modalities; lines join points of a row.

    embeddings: modality -> (N, D), paired by row, NaN where a row lacks the modality; at most
    `rows` complete rows are shown, drawn by `seed`. labels (N,) colour a second panel. The table:
    modality, row, x, y, and the labels. ValueError if shapes differ.
    """
    stack = np.stack([np.asarray(x, np.float32) for x in embeddings.values()])
    complete = np.flatnonzero(np.isfinite(stack).all((0, 2)))
    if not len(complete):
        table = pd.DataFrame(columns=["modality", "row", "x", "y"])
        return notice(f"No row has an item of {listed(embeddings)}."), table
    kept = np.sort(np.random.default_rng(seed).permutation(complete)[:rows])
    unit = stack[:, kept] / np.linalg.norm(stack[:, kept], axis=2, keepdims=True).clip(1e-12)
    perplexity = min(perplexity, len(kept) * len(unit) / 4)  # scikit-learn rejects larger ones
    points = _tsne_points(unit, perplexity, seed)
    index = pd.MultiIndex.from_product([embeddings, kept], names=["modality", "row"])
    table = pd.DataFrame(points.reshape(-1, 2), index, ["x", "y"]).reset_index()
    colours, markers, _ = zip(*map(modality_style, embeddings), strict=True)
    panels = {"modality": {"palette": colours, "style": "modality", "markers": markers}}
    if labels is not None:
        table[label_name] = np.asarray(labels)[table["row"]]
        panels[label_name] = {"palette": "viridis"}
    hits = np.mean([nearest(a, b) == np.arange(len(a)) for a, b in permutations(unit, 2)])
    note = f"nearest across modalities, before t-SNE, is the same row: {hits:.0%}"
    alt = f"t-SNE of {len(kept):,} rows in {listed(embeddings)}; {note}."
    figure, grid = subplots(alt, 1, len(panels), COLUMN * len(panels), 4.3)
    for axes, (hue, style) in zip(grid[0], panels.items(), strict=True):
        axes.plot(points[..., 0], points[..., 1], color="0.6", lw=0.5, zorder=0)
        sns.scatterplot(table, x="x", y="y", hue=hue, **style, s=14, lw=0, ax=axes)
        axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
        sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncols=5, title=hue)
    figure.supxlabel(f"{len(kept):,} rows, perplexity {perplexity:.3g}, seed {seed}\n{note}")
    return figure, table


def _tsne_points(unit: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Embeddings (M, N, D) -> points (M, N, 2)."""
    vectors = np.concatenate(unit)
    # of equal vectors PCA gives NaN, on which scikit-learn crashes the process
    init = "pca" if np.ptp(vectors, axis=0).max() > 1e-4 else "random"
    model = TSNE(perplexity=perplexity, init=init, random_state=seed)
    with threadpool_limits(1):  # on a busy machine several threads are ten times slower
        return model.fit_transform(vectors).reshape(*unit.shape[:2], 2)


@styled
def similarity_heatmap(similarity, row_labels, column_labels, groups=(), names=("vision", "text")):
    """Cosines (B, B) of a batch between the modalities `names`, with its pairs outlined.

    The colour scale is always -1 to 1, so that figures compare. groups (B,): lines are drawn where
    the group changes. The table: row, column, cosine, row_label, column_label.
    """
    matrix = pd.DataFrame(np.asarray(similarity)).rename_axis(index="row", columns="column")
    table = matrix.stack().rename("cosine").reset_index()
    table["row_label"] = np.asarray(row_labels)[table["row"]]
    table["column_label"] = np.asarray(column_labels)[table["column"]]
    pair = table["row"] == table["column"]
    means = [table["cosine"][part].mean() for part in (pair, ~pair)]
    alt = f"Heatmap of cosine similarity, {len(matrix)} {names[0]} rows by {names[1]} columns: "
    alt += f"mean {means[0]:.2f} for pairs, {means[1]:.2f} elsewhere."
    side = 0.15 * len(matrix)  # inches: 8 pt per row
    figure, [[axes]] = subplots(alt, 1, 1, side + 2.5, side + 1.8)
    rows, columns = (list(map(_cut, labels)) for labels in (row_labels, column_labels))
    bar = {"label": "cosine similarity", "shrink": 0.8}
    style = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1, "square": True, "cbar_kws": bar}
    sns.heatmap(matrix, yticklabels=rows, xticklabels=columns, ax=axes, **style)
    for i in matrix.index:
        axes.add_patch(mpl.patches.Rectangle((i, i), 1, 1, fill=False, ec="black", lw=0.8))
    for edge in np.flatnonzero(np.diff(groups)) + 1:
        axes.axhline(edge, color="black", lw=0.4)
        axes.axvline(edge, color="black", lw=0.4)
    axes.set(ylabel=names[0], xlabel=names[1])
    return figure, table


def _cut(text: str) -> str:
    """A label, cut in the middle: similar captions may differ at the ends."""
    text = " ".join(wrapped(text, 80, lines=1000).split())
    return f"{text[:12]}…{text[-12:]}" if len(text) > 25 else text


@styled
def retrieval_strip(queries, similarity, right, images, top=5):
    """The `top` items retrieved for each of n captions, with cosines; the right one is framed, or
    comes last if it ranks lower.

    similarity (n, gallery); right (n,): gallery indices; images(i): the PIL image of gallery item
    i, or a text in its place. The table: query, caption, rank, item, cosine, right.
    """
    records = [
        (n, caption, rank, item, float(similarity[n][item]), item == right[n])
        for n, caption in enumerate(queries)
        for rank, item in enumerate(np.argsort(-np.asarray(similarity[n]), kind="stable"), 1)
        if rank <= top or item == right[n]
    ]
    table = pd.DataFrame(records, columns=["query", "caption", "rank", "item", "cosine", "right"])
    if table.empty:
        return notice("No query with a right answer."), table
    shown = {item: images(item) for item in table["item"].unique()}
    ranks = [f"{row.rank} for “{_cut(row.caption)}”" for row in table[table["right"]].itertuples()]
    noun = "item" if any(isinstance(item, str) for item in shown.values()) else "image"
    alt = f"The top {top} {noun}s for each caption; the right one has rank {listed(ranks)}."
    columns = min(top + 1, table["rank"].max())
    options = {"gridspec_kw": {"width_ratios": [2.2] + [1] * columns}, "subplot_kw": BARE_AXES}
    figure, grid = subplots(alt, len(queries), 1 + columns, PAGE, len(queries), **options)
    for axes, caption in zip(grid[:, 0], queries, strict=True):
        axes.text(0, 0.5, wrapped(caption, 28, 6), va="center", transform=axes.transAxes)
    for row in table.itertuples():
        axes = grid[row.query, min(row.rank, columns)]
        draw_item(axes, shown[row.item])
        missed = f"\nright: rank {row.rank:,}" if row.rank > top else ""
        axes.set_xlabel(f"{row.cosine:.2f}{missed}", fontsize=8)
        axes.set_frame_on(row.right and not missed)
        axes.spines[:].set(visible=True, color=HIT_COLOUR, linewidth=3)
    figure.supxlabel(f"cosine below each {noun}; framed: the right one")
    return figure, table


@styled
def winoground_scores(scores: pd.DataFrame):
    """Bars of Winoground's text, image and group scores (Thrush et al. 2022) by dim.

    scores: columns dim, score, value, low, high, chance. The table: `scores`.
    """
    dims = sorted(scores["dim"].unique())
    full = scores[scores["dim"] == dims[-1]]
    values = [f"{row.score} {row.value:.2f}" for row in full.itertuples()]
    alt = f"Winoground scores at {listed(dims)} dims; at {dims[-1]}: {listed(values)}."
    figure, [[axes]] = subplots(alt, 1, 1, COLUMN, 2.6)
    colours = {"image": modality_style("vision")[0], "text": modality_style("text")[0]}
    for number, (name, part) in enumerate(scores.groupby("score", sort=False)):
        x = np.searchsorted(dims, part["dim"]) + 0.27 * (number - 1)
        style = {"color": colours.get(name, "0.6"), "label": f"{name} score"}
        axes.bar(x, part["value"], 0.24, yerr=whiskers(part.value, part.low, part.high), **style)
        axes.hlines(part["chance"], x - 0.1, x + 0.1, "black", ":", label="_" * number + "chance")
    axes.set(xlabel="dims kept", xticks=range(len(dims)), xticklabels=dims)
    axes.set(ylabel="share of pairs", ylim=(0, None))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure, scores


@styled
def audio_retrieval(clips, images, retrieved, captions, retrieved_captions, ranks, rate=16000):
    """A row for each spoken query: its spectrogram, the right image, and the retrieved one.

    clips: n arrays of samples; images, retrieved: n PIL images, or texts in their place; ranks: of
    the right image, from 1; rate in Hz. The table: caption, retrieved_caption, rank, seconds.
    """
    table = {"caption": captions, "retrieved_caption": retrieved_captions, "rank": ranks}
    table = pd.DataFrame(table).assign(seconds=[len(clip) / rate for clip in clips])
    if table.empty:
        return notice("No spoken query with an image."), table
    alt = f"Spectrograms of {len(clips)} spoken queries beside their right and retrieved images; "
    alt += f"the right image has rank {listed(ranks)}."
    options = {"gridspec_kw": {"width_ratios": [2.2, 1, 1]}, "subplot_kw": BARE_AXES}
    figure, grid = subplots(alt, len(clips), 3, PAGE, 1.8 * len(clips), **options)
    for row, (sound, right, wrong) in enumerate(grid):
        _spectrogram(sound, clips[row], rate)
        sound.set_xlabel(wrapped(f"“{captions[row]}”", 62), fontsize=8)
        draw_item(right, images[row])
        right.set_title("right, retrieved" if ranks[row] == 1 else f"right, rank {ranks[row]:,}")
        if ranks[row] > 1:
            draw_item(wrong, retrieved[row])
            wrong.set_title("retrieved")
            wrong.set_xlabel(wrapped(retrieved_captions[row], 28), fontsize=8)
    return figure, table


def _spectrogram(axes, clip, rate: int) -> None:
    samples = np.pad(clip, (0, max(0, WINDOW - len(clip))))
    frequencies, times, power = spectrogram(samples, rate, nperseg=WINDOW, noverlap=0)
    decibels = 10 * np.log10(power + 1e-10)
    colours = {"vmin": -80, "vmax": max(-79, decibels.max()), "cmap": "magma"}  # silence is -100
    axes.pcolormesh(times, frequencies / 1000, decibels, **colours, rasterized=True)
    seconds = range(0, int(times[-1]) + 1, 1 + int(times[-1]) // 20)
    axes.set(yticks=[0, 4, 8], ylabel="kHz", xticks=seconds)
