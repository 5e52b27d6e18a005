"""Recall by dim, the shared space, and what was found."""

import textwrap
from itertools import permutations

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances_argmin as nearest
from threadpoolctl import threadpool_limits

from edge_lib.plots.style import COLUMN, HIT, LOOKS, OTHER, PAGE, QUIET, direction, styled, subplots


@styled
def recall_by_dim(recall: pd.DataFrame):
    """R@k by the number of Matryoshka dims kept, one panel for each two modalities.

    `recall` has columns query, gallery, dim, k, recall, low, high (95% interval), rows (of the
    gallery) and rule (what counts as right). The table: `recall` by dim, with chance (k / rows).
    """
    table = recall.assign(chance=recall["k"] / recall["rows"]).sort_values("dim", kind="stable")
    panels = table.groupby(table[["query", "gallery"]].apply(frozenset, axis=1), sort=False)
    figure, grid = subplots(1, len(panels), COLUMN if len(panels) < 2 else PAGE, 3.3, sharey=True)
    lines = {}
    for axes, (_, part) in zip(grid[0], panels, strict=True):
        _recall_panel(axes, part)
        axes.tick_params(axis="x", rotation=90 if len(panels) > 1 else 0)
        lines |= {line.get_label(): line for line in axes.get_legend_handles_labels()[0]}
    grid[0, 0].set(ylabel="recall (share of queries)", ylim=(0, None))
    names = sorted(lines, key=lambda name: "→" not in name)
    figure.legend(map(lines.get, names), names, loc="outside lower center", ncols=1 + len(panels))
    return figure, table


def _recall_panel(axes, part: pd.DataFrame) -> None:
    weights = {}, {"lw": 0.9, "mfc": "white", "alpha": 0.7}, {"lw": 0.6, "ms": 1.5, "alpha": 0.7}
    for number, (k, at_k) in enumerate(part.groupby("k")):
        weight = weights[min(number, 2)]
        for way, line in at_k.groupby(["query", "gallery"], sort=False):
            look = direction(*way) | weight | ({"label": "_"} if number else {})
            axes.plot("dim", "recall", data=line, **look)
            if number == 0:
                interval = line["dim"], line["low"], line["high"]
                axes.fill_between(*interval, color=look["color"], alpha=0.15, lw=0)
                axes.vlines(*interval, color=look["color"], lw=0.8)
        label = f"R@{k}" if number else f"R@{k}, 95% interval"
        axes.plot([], [], label=label, **{"color": QUIET, "marker": "o", **weight})
        if number == 0:
            for chance in at_k["chance"].unique():
                axes.axhline(chance, color=QUIET, ls=":", label=f"chance R@{k} ({chance:.2g})")
    axes.set_xscale("log", base=2)
    axes.set_xticks(part["dim"].unique(), part["dim"].unique())
    axes.minorticks_off()
    sizes = " or ".join(f"{rows:,}" for rows in part["rows"].unique())
    axes.set_title(f"gallery of {sizes},\n{', '.join(part['rule'].unique())}")
    axes.set_xlabel("dims kept")


@styled
def tsne(embeddings, labels=None, perplexity=30.0, seed=0, rows=400, label_name="label"):
    """Joint t-SNE (van der Maaten & Hinton 2008) of the modalities, the points of a row joined.

    `embeddings`: modality -> (N, D), paired by row, NaN where a row lacks it; `rows` whole rows,
    drawn by `seed`, are shown. `labels` (N,) colour a second panel. The table: modality, row, x, y
    (and the labels). ValueError if shapes differ.
    """
    stack = np.stack([np.asarray(x, np.float32) for x in embeddings.values()])
    whole = np.flatnonzero(np.isfinite(stack).all((0, 2)))
    kept = np.sort(np.random.default_rng(seed).permutation(whole)[:rows])
    unit = stack[:, kept] / np.linalg.norm(stack[:, kept], axis=2, keepdims=True).clip(1e-12)
    perplexity = min(perplexity, len(kept) * len(unit) / 4)  # scikit-learn refuses too large a one
    model = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    with threadpool_limits(1):  # on a busy machine its threads wait for one another, 10x slower
        plane = model.fit_transform(np.concatenate(unit)).reshape(*unit.shape[:2], 2)
    index = pd.MultiIndex.from_product([embeddings, kept], names=["modality", "row"])
    table = pd.DataFrame(plane.reshape(-1, 2), index, ["x", "y"]).reset_index()
    colours, markers, _ = zip(*(LOOKS.get(name, OTHER) for name in embeddings), strict=True)
    panels = {"modality": {"palette": colours, "style": "modality", "markers": markers}}
    if labels is not None:
        table[label_name] = np.asarray(labels)[table["row"]]
        panels[label_name] = {"palette": "viridis"}
    figure, grid = subplots(1, len(panels), COLUMN * len(panels), 4.3)
    for axes, (hue, look) in zip(grid[0], panels.items(), strict=True):
        axes.plot(plane[..., 0], plane[..., 1], color="0.6", lw=0.5, zorder=0)
        sns.scatterplot(table, x="x", y="y", hue=hue, **look, s=14, lw=0, ax=axes)
        axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
        sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncols=5, title=hue)
    found = np.mean([nearest(a, b) == np.arange(len(a)) for a, b in permutations(unit, 2)])
    note = f"nearest across modalities, before t-SNE, is the same row: {found:.0%}"
    figure.supxlabel(f"{len(kept):,} rows, perplexity {perplexity:.3g}, seed {seed}\n{note}")
    return figure, table


@styled
def similarity_heatmap(similarity, row_labels, column_labels, groups=(), names=("vision", "text")):
    """Cosines (B, B) of a batch in the two modalities `names`; its true pairs are outlined.

    Always coloured from -1 to 1, to compare; lines where `groups` (B,) changes. The table: row,
    column, cosine, row_label, column_label.
    """
    matrix = pd.DataFrame(np.asarray(similarity)).rename_axis(index="row", columns="column")
    table = matrix.stack().rename("cosine").reset_index()
    table["row_label"] = np.asarray(row_labels)[table["row"]]
    table["column_label"] = np.asarray(column_labels)[table["column"]]
    side = 0.15 * len(matrix)  # inches: 8 pt a row
    figure, [[axes]] = subplots(1, 1, side + 2.5, side + 1.8)
    texts = row_labels, column_labels  # cut in the middle: twins' may differ at either end
    rows, columns = ([f"{t[:12]}…{t[-12:]}" if len(t) > 25 else t for t in x] for x in texts)
    look = {"cmap": "RdBu_r", "cbar_kws": {"label": "cosine similarity", "shrink": 0.8}, "vmin": -1}
    sns.heatmap(matrix, yticklabels=rows, xticklabels=columns, vmax=1, square=True, ax=axes, **look)
    for i in matrix.index:
        axes.add_patch(mpl.patches.Rectangle((i, i), 1, 1, fill=False, ec="black", lw=0.8))
    for edge in np.flatnonzero(np.diff(groups)) + 1:
        axes.axhline(edge, color="black", lw=0.4)
        axes.axvline(edge, color="black", lw=0.4)
    axes.set(ylabel=names[0], xlabel=names[1])
    return figure, table


@styled
def retrieval_strip(queries, similarity, right, images, top=5):
    """The `top` images found for each of n captions, with cosines; the right one is framed.

    `similarity`: (n, gallery); `right`: (n,) gallery indices; `images(i)`: item i, a PIL image.
    A right one not among them comes last. The table: query, caption, rank, item, cosine, right.
    """
    found = [
        (n, caption, rank, item, float(similarity[n][item]), item == right[n])
        for n, caption in enumerate(queries)
        for rank, item in enumerate(np.argsort(-np.asarray(similarity[n]), kind="stable"), 1)
        if rank <= top or item == right[n]
    ]
    table = pd.DataFrame(found, columns=["query", "caption", "rank", "item", "cosine", "right"])
    places = min(top + 1, table["rank"].max())
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    options = {"gridspec_kw": {"width_ratios": [2.2] + [1] * places}, "subplot_kw": bare}
    figure, grid = subplots(len(queries), 1 + places, PAGE, len(queries), **options)
    for axes, caption in zip(grid[:, 0], queries, strict=True):
        axes.text(0, 0.5, textwrap.fill(caption, 28), va="center", transform=axes.transAxes)
    for line in table.itertuples():
        axes = grid[line.query, min(line.rank, places)]
        axes.imshow(images(line.item))
        missed = f"\nright: rank {line.rank:,}" if line.rank > top else ""
        axes.set_xlabel(f"{line.cosine:.2f}{missed}", fontsize=8)
        axes.set_frame_on(line.right and not missed)
        axes.spines[:].set(visible=True, color=HIT, linewidth=3)
    figure.supxlabel("cosine below each image; framed: the right one")
    return figure, table


@styled
def swap_probe(scores: pd.DataFrame):
    """Bars of Winoground's scores (text, image, group): dim, score, value, low, high, chance."""
    figure, [[axes]] = subplots(1, 1, COLUMN, 2.6)
    dims = sorted(scores["dim"].unique())
    colours = {"image": LOOKS["vision"][0], "text": LOOKS["text"][0], "group": "0.6"}
    for number, (name, part) in enumerate(scores.groupby("score", sort=False)):
        x = np.searchsorted(dims, part["dim"]) + 0.27 * (number - 1)
        error = part["value"] - part["low"], part["high"] - part["value"]
        axes.bar(x, part["value"], 0.24, yerr=error, color=colours[name], label=f"{name} score")
        axes.hlines(part["chance"], x - 0.1, x + 0.1, "black", ":", label="_" * number + "chance")
    axes.set(xlabel="dims kept", xticks=range(len(dims)), xticklabels=dims)
    axes.set(ylabel="share of swapped pairs", ylim=(0, None))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure, scores
