"""The data before training, the losses of it, and its speed."""

import textwrap

import pandas as pd

from edge_lib.plots.style import COLUMN, PAGE, QUIET, direction, styled, subplots


@styled
def samples(images, captions, columns=4):
    """Images (n PIL images) with their captions, of one line or several, in rows of `columns`."""
    rows = -(-len(images) // columns)
    bare = {"subplot_kw": {"xticks": [], "yticks": [], "frame_on": False}}
    figure, grid = subplots(rows, columns, PAGE, 2.6 * rows, **bare)
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        axes.imshow(image)
        lines = (textwrap.fill(line, 28) for line in caption.splitlines())
        axes.set_xlabel("\n".join(lines), fontsize=8)
    return figure, pd.DataFrame({"caption": captions})


@styled
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
    figure, grid = subplots(2 - recall.empty, 1, COLUMN, 2.2 if recall.empty else 3.8, sharex=True)
    top, bottom = grid[0, 0], grid[-1, 0]
    top.plot("step", "loss", data=loss, color="0.75", lw=0.8, label="logged")
    top.plot("step", "smoothed loss", data=loss, color="0.15", label=f"mean of {window} logged")
    for name, curve in recall.groupby("series", sort=False):
        look = direction(*name[len("val.") : -len(".r1")].split("_to_"))
        bottom.plot("step", "value", data=curve, ms=3, **look)
        bottom.set(ylabel="validation R@1\n(share of queries)", ylim=(0, None))
        bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2)
    top.set_ylabel("training loss (nats)")
    top.legend()
    bottom.set_xlabel("training step")
    return figure, pd.concat([loss.melt("step", var_name="series"), recall])


@styled
def speed_bars(table: pd.DataFrame):
    """Samples per second by name, with `note` (if there) below the name; log beyond 20x."""
    figure, [[axes]] = subplots(1, 1, COLUMN, 0.6 + 0.4 * len(table))
    speed = table["samples_per_second"]
    notes = table.get("note", pd.Series("", table.index)).fillna("")
    bars = axes.barh((table["name"] + "\n" + notes).str.strip(), speed, 0.6, color=QUIET)
    axes.bar_label(bars, [f"{v:,.0f}" if v >= 100 else f"{v:.3g}" for v in speed], padding=3)
    axes.set_xlabel("samples per second")
    if speed.max() > 20 * speed.min():
        axes.set(xscale="log", xlabel="samples per second (log scale)", xlim=speed.min() / 3)
    axes.invert_yaxis()
    return figure, table
