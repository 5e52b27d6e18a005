"""Pictures of sweeps: a line for each arm with its spread over seeds, and what makes up a whole."""

import pandas as pd
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from edge_lib.plots.style import COLUMN, PAGE, QUIET, styled, subplots

# Okabe & Ito again, with a marker each, so that lines part without colour too
ARMS = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "^", "--"),
    ("#009E73", "s", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", (0, (4, 1, 1, 1))),
    ("#56B4E9", "P", (0, (1, 1))),
    ("0.35", "X", "-"),
)


@styled
def arms(table: pd.DataFrame, x: str, y: str, panel: str | None = None, free_y=False, **axis):
    """A line for each `arm` over `x`: the mean of `y` over the seeds, whiskers from lowest to
    highest; a panel for each value of `panel`, with a y axis of its own if `free_y`. `axis`:
    matplotlib's settings for all axes.

    The table: panel, arm, x, mean, sd, lowest, highest, seeds.
    """
    keys = [*([panel] if panel else []), "arm", x]
    groups = table.groupby(keys, sort=False)[y]
    summary = groups.agg(mean="mean", sd="std", lowest="min", highest="max", seeds="count")
    summary = summary.reset_index().sort_values(x, kind="stable")
    names = list(dict.fromkeys(table["arm"]))
    panels = list(dict.fromkeys(table[panel])) if panel else [None]
    width = COLUMN if len(panels) == 1 else PAGE
    figure, [row] = subplots(1, len(panels), width, 3.2, sharey=not free_y)
    for axes, name in zip(row, panels, strict=True):
        part = summary if name is None else summary[summary[panel] == name]
        for arm, (colour, marker, dash) in zip(names, ARMS, strict=False):
            line = part[part["arm"] == arm]
            error = line["mean"] - line["lowest"], line["highest"] - line["mean"]
            look = {"color": colour, "marker": marker, "ls": dash, "ms": 4, "lw": 1.2}
            axes.errorbar(
                line[x], line["mean"], yerr=[e.clip(lower=0) for e in error], label=arm, **look
            )
        axes.set(**{"xlabel": x, "ylabel": "" if panel else y, "title": name, **axis})
        if "xscale" not in axis:
            axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(part[x].unique()), sorted(part[x].unique()))
        axes.minorticks_off()
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure, summary


@styled
def dots(table: pd.DataFrame, arm: str, value: str, group: str, xlabel: str = ""):
    """A row for each arm: a dot for each seed, a bar at their mean, a colour for each `group`.

    The table: group, arm, mean, sd, seeds.
    """
    summary = table.groupby([group, arm], sort=False)[value].agg(["mean", "std", "count"])
    summary = summary.rename(columns={"std": "sd", "count": "seeds"}).reset_index()
    names = list(dict.fromkeys(table[arm]))
    groups = list(dict.fromkeys(table[group]))
    figure, [[axes]] = subplots(1, 1, COLUMN, 0.9 + 0.4 * len(names))
    for number, (name, (colour, marker, _)) in enumerate(zip(groups, ARMS, strict=False)):
        part, means = table[table[group] == name], summary[summary[group] == name]
        shift = 0.25 * (number - (len(groups) - 1) / 2)
        look = {"color": colour, "marker": marker, "ms": 4, "ls": "", "mfc": "none"}
        axes.plot(part[value], [names.index(a) + shift for a in part[arm]], label=name, **look)
        places = [names.index(a) + shift for a in means[arm]]
        axes.vlines(means["mean"], [y - 0.12 for y in places], [y + 0.12 for y in places], colour)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(xlabel or value)
    axes.grid(axis="y", color="0.9")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(groups))
    return figure, summary


@styled
def pareto(table: pd.DataFrame, costs: dict[str, str], score: str, ylabel: str):
    """A panel for each of `costs` (column -> label): the mean of `score` over the lines that share
    a `setting`, whiskers from lowest to highest, a look for each `decoder`; the front in grey:
    nothing cheaper is better.

    The table: decoder, setting, mean, lowest, highest, seeds, and the mean of each cost.
    """
    groups = table.groupby(["decoder", "setting"], sort=False)
    summary = groups[score].agg(mean="mean", lowest="min", highest="max", seeds="count")
    summary = summary.join(groups[[*costs]].mean()).reset_index()
    figure, [row] = subplots(1, len(costs), PAGE, 3.0, sharey=True)
    for axes, (cost, label) in zip(row, costs.items(), strict=True):
        front = summary.sort_values([cost, "mean"], ascending=[True, False])
        front = front[front["mean"] > front["mean"].cummax().shift(fill_value=-1)]
        axes.step(front[cost], front["mean"], where="post", color="0.8", lw=3, zorder=0)
        for name, (colour, marker, _) in zip(summary.decoder.unique(), ARMS, strict=False):
            part = summary[summary.decoder == name]
            error = part["mean"] - part["lowest"], part["highest"] - part["mean"]
            look = {"color": colour, "fmt": marker, "ms": 4, "lw": 0.8, "label": name}
            axes.errorbar(part[cost], part["mean"], [e.clip(lower=0) for e in error], **look)
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
    row[0].set_ylabel(ylabel)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure, summary


@styled
def makeup(table: pd.DataFrame, x: str, part: str, share: str, xlabel: str = ""):
    """Stacked bars: how much of the whole each `part` is (the mean of `share`), at each `x`."""
    summary = table.groupby([x, part], sort=False)[share].mean().unstack(part).sort_index()
    figure, [[axes]] = subplots(1, 1, COLUMN, 0.9 + 0.32 * len(summary))
    left = pd.Series(0.0, summary.index)
    names = [str(value) for value in summary.index]
    for name, (colour, _, _) in zip(summary, ARMS, strict=False):
        axes.barh(names, summary[name], 0.7, left=left, color=colour, label=name)
        left += summary[name]
    for place, total in enumerate(left):
        axes.text(total, place, f" {100 * total:.0f}%", va="center", fontsize=8, color=QUIET)
    axes.set(xlabel=xlabel or share, ylabel=x, xlim=(0, 1.12 * left.max()))
    figure.legend(loc="outside lower center", ncols=2)
    return figure, summary.reset_index()
