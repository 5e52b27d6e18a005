"""Figures of training: samples of the data, loss curves, speed."""

import pandas as pd

from edge_lib.plots.style import (
    BARE_AXES,
    COLUMN,
    GREY,
    PAGE,
    direction_style,
    listed,
    plain_logs,
    styled,
    subplots,
    wrapped,
)


@styled
def samples(images, captions, columns=4):
    """Images (n PIL images) with captions of one or several lines, in rows of `columns`; captions
    alone where an image is None.

    The table: caption.
    """
    rows, number = max(1, -(-len(captions) // columns)), sum(image is not None for image in images)
    texts = "; ".join(" ".join(wrapped(caption, 80, 3).split()) for caption in captions)
    alt = f"{number} images with captions: {texts}" if number else f"Captions: {texts}"
    height = 2.6 if number else 0.9
    figure, grid = subplots(alt, rows, columns, PAGE, height * rows, subplot_kw=BARE_AXES)
    for axes, image, caption in zip(grid.flat, images, captions, strict=False):
        if image is not None:
            axes.imshow(image)
        axes.set_xlabel(wrapped(caption, 28), fontsize=8)
    return figure, pd.DataFrame({"caption": captions})


@styled
def loss_curve(history: pd.DataFrame):
    """Training loss and, below it, validation recall (`val.<a>_to_<b>.r1`) if `history`
    (`Run.history()`) has any.

    The table: step, series, value. ValueError if no loss was logged.
    """
    loss = history.reindex(columns=["step", "loss"]).dropna()
    if loss.empty:
        raise ValueError("no training loss was logged")
    window = max(3, len(loss) // 20 | 1)
    loss["smoothed loss"] = loss["loss"].rolling(window, center=True, min_periods=1).mean()
    recall = history.filter(regex=r"^step$|^val\.\w+\.r1$").melt("step", var_name="series").dropna()
    alt, height = _loss_alt(loss, recall), 2.2 if recall.empty else 3.8
    figure, grid = subplots(alt, 2 - recall.empty, 1, COLUMN, height, sharex=True)
    top, bottom = grid[0, 0], grid[-1, 0]
    top.plot("step", "loss", data=loss, color="0.75", lw=0.8, label="logged")
    top.plot("step", "smoothed loss", data=loss, color="0.15", label=f"mean of {window} logged")
    for name, curve in recall.groupby("series", sort=False):
        bottom.plot("step", "value", data=curve, ms=3, **direction_style(*_direction(name)))
        bottom.set(ylabel="validation R@1\n(share of queries)", ylim=(0, None))
        bottom.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2)
    top.set_ylabel("training loss (nats)")
    top.legend()
    bottom.set_xlabel("training step")
    return figure, pd.concat([loss.melt("step", var_name="series"), recall])


def _direction(name: str) -> list[str]:
    """val.vision_to_text.r1 -> [vision, text]"""
    return name.removeprefix("val.").removesuffix(".r1").split("_to_")


def _loss_alt(loss: pd.DataFrame, recall: pd.DataFrame) -> str:
    first, last = loss["smoothed loss"].iloc[[0, -1]]
    alt = f"Training loss from {first:.2f} to {last:.2f} over {loss['step'].max():,.0f} steps"
    final = recall.groupby("series", sort=False)["value"].last()
    values = [f"{' to '.join(_direction(name))} {value:.2f}" for name, value in final.items()]
    return f"{alt}; validation R@1 ends at {listed(values)}." if values else f"{alt}."


@styled
def speed_bars(table: pd.DataFrame):
    """Samples per second by name, with the optional `note` below the name; logarithmic if they
    differ more than 20-fold.
    """
    speed = table["samples_per_second"]
    labels = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in speed]
    bars = [f"{name} {label}" for name, label in zip(table["name"], labels, strict=True)]
    alt = f"Samples per second: {listed(bars)}."
    figure, [[axes]] = subplots(alt, 1, 1, COLUMN, 0.6 + 0.4 * len(table))
    notes = table.get("note", pd.Series("", table.index)).fillna("")
    bars = axes.barh((table["name"] + "\n" + notes).str.strip(), speed, 0.6, color=GREY)
    axes.bar_label(bars, labels, padding=3)
    axes.set_xlabel("samples per second")
    if speed.max() > 20 * speed.min():
        axes.set(xscale="log", xlabel="samples per second (log scale)", xlim=speed.min() / 3)
        plain_logs(axes)
    axes.invert_yaxis()
    return figure, table
