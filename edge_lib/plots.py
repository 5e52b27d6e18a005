"""Pictures of results. Each function returns `(figure, table)`: the figure and the numbers in it.

    figure, table = plots.recall_by_dim(recall)
    run.save_figure("recall_by_dim", figure, table)

A modality has one colour, marker and dash over all figures; "vision → text" has its colour from
the query, its marker and dash from the gallery. Colours: Okabe & Ito (2008), safe for the
colour-blind. No letter is under 8 pt. Figures live outside pyplot and leave it as it was.
"""

import io
import textwrap
from functools import wraps

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances_argmin
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
    **sns.plotting_context("paper", rc={"lines.linewidth": 1.5, "lines.markersize": 4}),
    **dict.fromkeys(["font.size", "legend.fontsize", "xtick.labelsize", "ytick.labelsize"], 8),
    **dict.fromkeys(["axes.labelsize", "axes.titlesize", "legend.title_fontsize"], 9),
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "legend.frameon": False,
    "figure.dpi": 144,
}


class _Figure(Figure):
    """Shows itself once in a notebook, whatever the backend: pyplot does not know of it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi, bbox_inches="tight")
        return buffer.getvalue()


def _styled(plot):
    @wraps(plot)
    def styled(*args, **kwargs):
        with mpl.rc_context(STYLE):
            figure, table = plot(*args, **kwargs)
            figure.draw_without_rendering()  # ticks take their style from the first drawing
        return figure, table

    return styled


def _subplots(rows: int, columns: int, width: float, height: float, **options):
    figure = _Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _direction(query: str, gallery: str) -> dict:
    _, marker, dash = LOOKS.get(gallery, OTHER)
    look = {"color": LOOKS.get(query, OTHER)[0], "marker": marker, "linestyle": dash}
    return {**look, "label": f"{query} → {gallery}"}


@_styled
def loss_curve(history: pd.DataFrame):
    """Training loss and, where `history` (`Run.history()`) has them, `val.<a>_to_<b>.r1` below.

    The table: series, step, value. ValueError if no loss was logged.
    """
    loss = history.reindex(columns=["step", "loss"]).dropna()
    if loss.empty:
        raise ValueError("no training loss was logged")
    window = max(3, len(loss) // 20 | 1)
    loss["smoothed loss"] = loss["loss"].rolling(window, center=True, min_periods=1).mean()
    recall = history.filter(regex=r"^step$|^val\..*_to_.*\.r1$").melt("step").dropna()
    figure, grid = _subplots(2 - recall.empty, 1, COLUMN, 2.2 if recall.empty else 3.8, sharex=True)
    top, bottom = grid[0, 0], grid[-1, 0]
    top.plot("step", "loss", data=loss, color="0.75", lw=0.8, label="logged")
    top.plot("step", "smoothed loss", data=loss, color="0.15", label=f"mean of {window} logged")
    for name, curve in recall.groupby("variable", sort=False):
        look = _direction(*name[len("val.") : -len(".r1")].split("_to_"))
        bottom.plot("step", "value", data=curve, ms=3, **look)
        bottom.set(ylabel="validation R@1\n(share of queries)", ylim=(0, None))
        bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2)
    top.set_ylabel("training loss (nats)")
    top.legend()
    bottom.set_xlabel("training step")
    table = pd.concat([loss.melt("step"), recall]).rename(columns={"variable": "series"})
    return figure, table[["series", "step", "value"]]


@_styled
def recall_by_dim(recall: pd.DataFrame):
    """R@k by the number of Matryoshka dims kept, one panel for each two modalities.

    `recall` has columns query, gallery, dim, k, recall, low, high (95% interval), rows (of the
    gallery) and rule (what counts as right). The table: `recall` by dim, with chance (k / rows).
    """
    table = recall.assign(chance=recall["k"] / recall["rows"]).sort_values("dim", kind="stable")
    panels = table.groupby(table[["query", "gallery"]].apply(frozenset, axis=1), sort=False)
    figure, grid = _subplots(1, len(panels), COLUMN if len(panels) < 2 else PAGE, 3.3, sharey=True)
    handles = {}
    for axes, (_, part) in zip(grid[0], panels, strict=True):
        _recall_panel(axes, part)
        axes.tick_params(axis="x", rotation=90 if len(panels) > 1 else 0)
        handles |= {line.get_label(): line for line in axes.get_legend_handles_labels()[0]}
    grid[0, 0].set(ylabel="recall (share of queries)", ylim=(0, None))
    names = sorted(handles, key=lambda name: "→" not in name)
    lines = [handles[name] for name in names]
    figure.legend(lines, names, loc="outside lower center", ncols=1 + len(panels))
    return figure, table


def _recall_panel(axes, part: pd.DataFrame) -> None:
    weights = {"ls": "-", "lw": 1.5}, {"lw": 0.9, "alpha": 0.7, "mfc": "white"}, {"lw": 0.6, "alpha": 0.7, "marker": ""}
