"""A figure of several runs: their recall curves over one another."""

import pandas as pd

from edge_lib.plots.style import PAGE, listed, notice, styled, subplots, variant_styles


@styled
def compared_recall(curves: pd.DataFrame, k: int = 1):
    """R@k by the number of dims, one panel for each direction, one line for each run.

    curves: of `runs.comparison.compare_runs`. The table: its rows of k.
    """
    table = curves[curves["k"] == k].sort_values("dim", kind="stable")
    if table.empty:
        return notice(f"No run with R@{k}."), table
    directions = [*table.groupby(["query", "gallery"], sort=False)]
    names = [*dict.fromkeys(curves["run"])]
    figure, [row] = subplots(_alt(table, names, k), 1, len(directions), PAGE, 3.3, sharey=True)
    for axes, ((query, gallery), part) in zip(row, directions, strict=True):
        _draw_runs(axes, part, names)
        sizes = " or ".join(f"{int(rows):,}" for rows in part["rows"].dropna().unique())
        axes.set_title(f"{query} → {gallery}" + f"\ngallery of {sizes}" * bool(sizes))
    row[0].set(ylabel=f"R@{k} (share of queries)", ylim=(0, None))
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=1)
    return figure, table


def _draw_runs(axes, part: pd.DataFrame, names: list[str]) -> None:
    for name, (colour, marker, dash) in variant_styles(names):
        line = part[part["run"] == name]
        style = {"color": colour, "marker": marker, "ls": dash, "ms": 4, "lw": 1.2}
        axes.plot("dim", "recall", data=line, label=name, **style)
        axes.fill_between(line["dim"], line["low"], line["high"], color=colour, alpha=0.15, lw=0)
    axes.set_xscale("log", base=2)
    dims = sorted(part["dim"].unique())
    axes.set_xticks(dims, dims, rotation=90)
    axes.minorticks_off()
    axes.set_xlabel("dims kept")


def _alt(table: pd.DataFrame, names: list[str], k: int) -> str:
    """The mean over directions of each run's recall at its largest dim."""
    full = table[table["dim"] == table.groupby("run")["dim"].transform("max")]
    means = full.groupby("run")["recall"].mean()
    values = listed(f"{name} {means[name]:.2f}" for name in names)
    return f"R@{k} by dims of {len(names)} runs; mean over directions at the full size: {values}."
