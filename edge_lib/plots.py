"""Pictures of results: each function returns the figure and the table of the numbers in it.

A modality has one colour, marker and dash everywhere; "vision → text" has its colour from vision,
its marker and dash from text. Palette: Okabe & Ito (2008), safe for the colour-blind; no letter is
under 8 pt. Figures live outside pyplot and leave its settings alone.
"""

import textwrap
from itertools import permutations

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.core.pylabtools import print_figure
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances_argmin as nearest
from threadpoolctl import threadpool_limits

COLUMN, PAGE = 3.5, 7.0  # inches: the widths of a column and a page of a two-column paper
LOOKS = {  # colour, marker, dash
    "vision": ("#0072B2", "o", "--"),
    "text": ("#D55E00", "^", "-"),
    "audio": ("#CC79A7", "s", "-."),
}
OTHER = ("#56B4E9", "D", (0, (1, 1)))  # a modality that is not among these
HIT, QUIET = "#009E73", "0.45"
STYLE = {
    **sns.axes_style("ticks", {"axes.spines.top": False, "axes.spines.right": False}),
    **sns.plotting_context("paper", font_scale=0.92),  # 8.1 and 8.8 pt
    **{"legend.frameon": False, "figure.dpi": 96, "figure.labelsize": 8},
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
}
_styled = mpl.rc_context(STYLE)


class _Figure(mpl.figure.Figure):
    """Shows itself once in a notebook, whatever the backend: pyplot does not know of it."""

    @_styled
    def draw(self, renderer) -> None:
        super().draw(renderer)  # makes ticks, which take their style from the settings of now

    _repr_png_ = print_figure


def _subplots(rows: int, columns: int, width: float, height: float, **options):
    figure = _Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _direction(query: str, gallery: str) -> dict:
    (colour, _, _), (_, marker, dash) = LOOKS.get(query, OTHER), LOOKS.get(gallery, OTHER)
    return {"color": colour, "marker": marker, "ls": dash, "label": f"{query} → {gallery}"}


@_styled
def samples(images, captions, columns=4):
    """Images (n PIL images) with their captions below, in rows of `columns`."""
    rows = -(-len(images) // columns)
    bare = {"subplot_kw": {"xticks": [], "yticks": [], "frame_on": False}}
    figure, grid = _subplots(rows, columns, PAGE, 2.6 * rows, **bare)
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image)
        axes.set_xlabel(textwrap.fill(caption, 28), fontsize=8)
    return figure, pd.DataFrame({"caption": captions})


@_styled
def loss_curve(history: pd.DataFrame):
    """Training loss and, where `history` (`Run.history()`) has them, `val.<a>_to_<b>.r1` below.

    The table: step, series, value. ValueError if no loss was logged.
    """
    loss = history.reindex(columns=["step", "loss"]).dropna()
    if loss.empty:
        raise ValueError("no training loss was logged")
    window = max(3, len(loss) // 20 | 1)
    loss["smoothed loss"] = loss["loss"].rolling(window, center=True, min_periods=1).mean()
    recall = history.filter(regex=r"^step$|^val\.\w+\.r1$").melt("step", var_name="series").dropna()
    figure, grid = _subplots(2 - recall.empty, 1, COLUMN, 2.2 if recall.empty else 3.8, sharex=True)
    top, bottom = grid[0, 0], grid[-1, 0]
    top.plot("step", "loss", data=loss, color="0.75", lw=0.8, label="logged")
    top.plot("step", "smoothed loss", data=loss, color="0.15", label=f"mean of {window} logged")
    for name, curve in recall.groupby("series", sort=False):
        look = _direction(*name[len("val.") : -len(".r1")].split("_to_"))
        bottom.plot("step", "value", data=curve, ms=3, **look)
        bottom.set(ylabel="validation R@1\n(share of queries)", ylim=(0, None))
        bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2)
    top.set_ylabel("training loss (nats)")
    top.legend()
    bottom.set_xlabel("training step")
    return figure, pd.concat([loss.melt("step", var_name="series"), recall])


@_styled
def recall_by_dim(recall: pd.DataFrame):
    """R@k by the number of Matryoshka dims kept, one panel for each two modalities.

    `recall` has columns query, gallery, dim, k, recall, low, high (95% interval), rows (of the
    gallery) and rule (what counts as right). The table: `recall` by dim, with chance (k / rows).
    """
    table = recall.assign(chance=recall["k"] / recall["rows"]).sort_values("dim", kind="stable")
    panels = table.groupby(table[["query", "gallery"]].apply(frozenset, axis=1), sort=False)
    figure, grid = _subplots(1, len(panels), COLUMN if len(panels) < 2 else PAGE, 3.3, sharey=True)
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
        for direction, line in at_k.groupby(["query", "gallery"], sort=False):
            look = _direction(*direction) | weight | ({"label": "_"} if number else {})
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


@_styled
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
    figure, grid = _subplots(1, len(panels), COLUMN * len(panels), 4.3)
    for axes, (hue, look) in zip(grid[0], panels.items(), strict=True):
        axes.plot(plane[..., 0], plane[..., 1], color="0.6", lw=0.5, zorder=0)
        sns.scatterplot(table, x="x", y="y", hue=hue, **look, s=14, lw=0, ax=axes)
        axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
        sns.move_legend(axes, "lower center", bbox_to_anchor=(0.5, 1), ncols=5, title=hue)
    found = np.mean([nearest(a, b) == np.arange(len(a)) for a, b in permutations(unit, 2)])
    note = f"nearest across modalities, before t-SNE, is the same row: {found:.0%}"
    figure.supxlabel(f"{len(kept):,} rows, perplexity {perplexity:.3g}, seed {seed}\n{note}")
    return figure, table


@_styled
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
    figure, [[axes]] = _subplots(1, 1, side + 2.5, side + 1.8)
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


@_styled
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
    figure, grid = _subplots(len(queries), 1 + places, PAGE, len(queries), **options)
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


@_styled
def swap_probe(scores: pd.DataFrame):
    """Bars of Winoground's scores (text, image, group): dim, score, value, low, high, chance."""
    figure, [[axes]] = _subplots(1, 1, COLUMN, 2.6)
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


@_styled
def speed_bars(table: pd.DataFrame):
    """Samples per second by name, with `note` (if there) below the name; log beyond 20x."""
    figure, [[axes]] = _subplots(1, 1, COLUMN, 0.6 + 0.4 * len(table))
    speed = table["samples_per_second"]
    notes = table.get("note", pd.Series("", table.index)).fillna("")
    bars = axes.barh((table["name"] + "\n" + notes).str.strip(), speed, 0.6, color=QUIET)
    axes.bar_label(bars, [f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in speed], padding=3)
    axes.set_xlabel("samples per second")
    if speed.max() > 20 * speed.min():
        axes.set(xscale="log", xlabel="samples per second (log scale)", xlim=speed.min() / 3)
    axes.invert_yaxis()
    return figure, table
