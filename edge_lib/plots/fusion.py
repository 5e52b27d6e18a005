"""Figures of modality fusion: recall by strategy, and the weights of gated fusion."""

import pandas as pd

from edge_lib.plots.style import (
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
    """Weights of gated fusion: a panel for each training, in it a box for each condition and
    modality, over the rows of all seeds, and the R@1 of the condition.

    weights: columns training, seed, condition, row, hit, and one for each modality. The table:
    training, condition, modality, mean, sd, rows, recall.
    """
    long = weights.melt(["training", "seed", "condition", "row", "hit"], var_name="modality")
    table = long.groupby(["training", "condition", "modality"], sort=False).agg(
        mean=("value", "mean"), sd=("value", "std"), rows=("row", "nunique"), recall=("hit", "mean")
    )
    table = table.reset_index()
    trainings, conditions, names = (list(table[c].unique()) for c in table.columns[:3])
    means = [f"{r.modality} {r.mean:.2f} ({r.condition}, {r.training})" for r in table.itertuples()]
    alt = f"Box plots of fusion weights; means: {listed(means)}."
    height = 0.9 + 0.55 * len(conditions)
    figure, [panels] = subplots(alt, 1, len(trainings), PAGE, height, sharex=True, sharey=True)
    for axes, training in zip(panels, trainings, strict=True):
        part = long[long["training"] == training]
        for number, name in enumerate(names):
            shift = 0.36 * (number - (len(names) - 1) / 2)
            _weight_boxes(axes, part[part["modality"] == name], conditions, name, shift)
        recall = part.groupby("condition")["hit"].mean()
        for place, condition in enumerate(conditions):
            axes.text(1.02, place, f"R@1 {recall[condition]:.2f}", va="center", fontsize=8)
        axes.axvline(1 / len(names), color=GREY, ls=":")
        axes.set(title=training, xlim=(0, 1.25), xlabel="weight (mean over columns)")
        axes.set_xticks([0, 0.5, 1])
    axes.set_yticks(range(len(conditions)), conditions)
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
    return figure, table


def _weight_boxes(axes, weights: pd.DataFrame, conditions: list[str], name: str, shift: float):
    """The boxes of one modality, beside the place of each condition."""
    groups, colour = weights.groupby("condition")["value"], modality_style(name)[0]
    boxes = axes.boxplot(
        [groups.get_group(condition) for condition in conditions],
        positions=[place + shift for place in range(len(conditions))],
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
