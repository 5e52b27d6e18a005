"""The figure of benchmarks: what rivals and limits cost, as multiples of ours."""

import pandas as pd

from edge_lib.plots.style import GREY, PAGE, listed, notice, plain_logs, styled, subplots

MARKS = {True: ("#0072B2", "o", "rival, costs more"), False: ("#D55E00", "D", "rival, costs less")}


@styled
def cost_ratios(table: pd.DataFrame):
    """A row for each rival of each cost: rival / ours, with a line to the worst round and a tick at
    limit / ours where the limit of that cost was measured. Variants of ours are left out.

    table: of `bench.suite.compared`. The figure's: rows of rivals with a column `limit`.
    """
    limits = table[table["kind"] == "limit"].set_index(["benchmark", "metric"])["ratio"]
    rivals = table[table["kind"] == "rival"].join(limits.rename("limit"), ["benchmark", "metric"])
    if rivals.empty:
        return notice("No benchmark has a rival."), rivals
    rows = rivals.reset_index(drop=True)
    figure, [[axes]] = subplots(_alt(rows), 1, 1, PAGE, 1.2 + 0.19 * len(rows))
    for won, part in rows.groupby(rows["ratio"] >= 1, sort=False):
        colour, marker, label = MARKS[won]
        axes.plot(part["ratio"], part.index, marker, color=colour, ms=4, label=label)
        axes.hlines(part.index, part["lowest"], part["ratio"], colour, lw=1)
    axes.plot(rows["limit"], rows.index, "|", color="black", ms=7, label="limit")
    axes.axvline(1, color=GREY, lw=0.8)
    axes.set(xscale="log", xlabel="cost / cost of ours (log scale)", ylim=(len(rows) - 0.5, -0.5))
    plain_logs(axes)
    axes.set_yticks(rows.index, rows["benchmark"] + " " + rows["metric"] + ", " + rows["rival"])
    axes.grid(axis="y", color="0.92")
    figure.legend(loc="outside lower center", ncols=3)
    return figure, rows


def _alt(rows: pd.DataFrame) -> str:
    """How many rivals cost more, and those that cost less."""
    less = rows[rows["ratio"] < 1]
    names = less["benchmark"] + " " + less["metric"] + " of " + less["rival"]
    alt = f"Costs of rivals relative to ours: {len(rows) - len(less)} of {len(rows)} are higher"
    return f"{alt}; lower: {listed(names)}." if len(less) else f"{alt}."
