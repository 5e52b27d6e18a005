"""Figures of modality fusion: recall by strategy, and the weights of gated fusion."""

import pandas as pd

from edge_lib.plots.style import (
    COLUMN,
    GREY,
    MODALITY_STYLES,
    PAGE,
    SEED_SPREAD,
    listed,
    modality_style,
    styled,
    subplots,
    whiskers,
)


@styled
def fusion_bars(recall: pd.DataFrame):
    """Mean R@1 by fusion strategy and query inputs, with whiskers from the lowest to the highest
    seed.

    recall: columns strategy, inputs ("vision", "vision + audio", ...), seed, recall, and rows
    (gallery size). The table: strategy, inputs, mean, sd, lowest, highest, seeds.
    """
    grouped = recall.groupby(["strategy", "inputs"], sort=False)["recall"]
    table = grouped.agg(**SEED_SPREAD).reset_index()
    strategies, inputs = (list(table[name].unique()) for name in ("strategy", "inputs"))
    best = table.loc[table["mean"].idxmax()]
    alt = f"Mean R@1 by fusion strategy for the queries {listed(inputs)}; the best is "
    alt += f"{best.strategy} with {best.inputs}, {best['mean']:.2f}."
    figure, [[axes]] = subplots(alt, 1, 1, PAGE, 3.0)
    width = 0.8 / len(inputs)
    for number, name in enumerate(inputs):
        part = table[table["inputs"] == name]
        shift = width * (number - (len(inputs) - 1) / 2)
        x = [strategies.index(strategy) + shift for strategy in part["strategy"]]
        error = whiskers(part["mean"], part["lowest"], part["highest"])
        colour = MODALITY_STYLES[name][0] if name in MODALITY_STYLES else "#009E73"
        bars = axes.bar(x, part["mean"], 0.92 * width, yerr=error, color=colour, label=name)
        percent = [f"{100 * value:.0f}" for value in part["mean"]]
        axes.bar_label(bars, percent, padding=3, fontsize=8)
    axes.set_xticks(range(len(strategies)), [name.replace("_", " ") for name in strategies])
    axes.set(ylabel="R@1 (share of queries)", ylim=(0, 1))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(inputs), title="query")
    sizes = " or ".join(f"{rows:,}" for rows in recall["rows"].unique())
    figure.supxlabel(
        f"gallery of {sizes}; whiskers: lowest to highest of {table['seeds'].max()} seeds"
    )
    return figure, table


@styled
def gate_weights(weights: pd.DataFrame):
    """Weights of gated fusion: a box for each condition and modality.

    weights: columns condition, modality, row, weight. The table: condition, modality, mean, sd,
    rows.
    """
    table = weights.groupby(["condition", "modality"], sort=False)["weight"]
    table = table.agg(mean="mean", sd="std", rows="count").reset_index()
    conditions, names = (list(table[column].unique()) for column in ("condition", "modality"))
    means = [f"{row.modality} {row.mean:.2f} ({row.condition})" for row in table.itertuples()]
    alt = f"Box plots of fusion weights; means: {listed(means)}."
    figure, [[axes]] = subplots(alt, 1, 1, COLUMN, 0.9 + 0.55 * len(conditions))
    for number, name in enumerate(names):
        part = weights[weights["modality"] == name].groupby("condition")["weight"]
        colour = modality_style(name)[0]
        boxes = axes.boxplot(
            [part.get_group(condition) for condition in conditions],
            positions=[i + 0.36 * (number - (len(names) - 1) / 2) for i in range(len(conditions))],
            widths=0.3,
            orientation="horizontal",
            patch_artist=True,
            showfliers=False,
            manage_ticks=False,
            medianprops={"color": "black"},
        )
        for box in boxes["boxes"]:
            box.set_facecolor(colour)
        axes.plot([], [], "s", color=colour, label=name)
    axes.axvline(1 / len(names), color=GREY, ls=":")
    axes.set_yticks(range(len(conditions)), conditions)
    axes.set_xlabel("weight (mean over columns)")
    axes.invert_yaxis()
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(names))
    return figure, table
