"""Figures of sweeps and of several runs: variants over seeds, trade-offs, shares of a whole."""

import pandas as pd
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from edge_lib.plots.style import (
    COLUMN,
    GREY,
    PAGE,
    SEED_SPREAD,
    listed,
    notice,
    plain_logs,
    styled,
    subplots,
    variant_styles,
    whiskers,
)


@styled
def variant_lines(
    table: pd.DataFrame, x: str, y: str, panel: str | None = None, free_y=False, **settings
):
    """A line for each `variant` over `x`: the mean of `y` over the seeds, with whiskers from the
    lowest to the highest seed.

    panel: a column; each of its values gets a panel, with a y axis of its own if `free_y`.
    settings: matplotlib's, for all axes. The table: panel, variant, x, mean, sd, lowest, highest,
    seeds.
    """
    keys = [*([panel] if panel else []), "variant", x]
    summary = table.groupby(keys, sort=False)[y].agg(**SEED_SPREAD)
    summary = summary.reset_index().sort_values(x, kind="stable")
    variants = list(table["variant"].unique())
    panels = list(table[panel].unique()) if panel else [None]
    width = COLUMN if len(panels) == 1 else PAGE
    alt = f"{listed(panels) if panel else settings.get('ylabel', y)} by {settings.get('xlabel', x)}"
    alt += f" for {listed(variants)}: mean over seeds, whiskers from lowest to highest."
    figure, [row] = subplots(alt, 1, len(panels), width, 3.2, sharey=not free_y)
    for axes, name in zip(row, panels, strict=True):
        part = summary if name is None else summary[summary[panel] == name]
        _draw_lines(axes, part, x, variants)
        axes.set(**{"xlabel": x, "ylabel": "" if panel else y, "title": name, **settings})
        if "xscale" not in settings:
            axes.set_xscale("log", base=2)
        plain_logs(axes)
        axes.set_xticks(sorted(part[x].unique()), sorted(part[x].unique()))
        axes.minorticks_off()
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure, summary


def _draw_lines(axes, summary: pd.DataFrame, x: str, variants: list[str]) -> None:
    for variant, (colour, marker, dash) in variant_styles(variants):
        line = summary[summary["variant"] == variant]
        error = whiskers(line["mean"], line["lowest"], line["highest"])
        style = {"color": colour, "marker": marker, "ls": dash, "ms": 4, "lw": 1.2}
        axes.errorbar(line[x], line["mean"], yerr=error, label=variant, **style)


@styled
def variant_dots(table: pd.DataFrame, variant: str, value: str, group: str, xlabel: str = ""):
    """A row for each `variant`: a dot per seed, a bar at their mean, a colour for each `group`.

    The table: group, variant, mean, sd, seeds.
    """
    summary = table.groupby([group, variant], sort=False)[value].agg(["mean", "std", "count"])
    summary = summary.rename(columns={"std": "sd", "count": "seeds"}).reset_index()
    names, groups = (list(table[column].unique()) for column in (variant, group))
    alt = f"{xlabel or value} of {listed(names)}, for {listed(groups)}: a dot per seed, a bar at"
    figure, [[axes]] = subplots(f"{alt} the mean.", 1, 1, COLUMN, 0.9 + 0.4 * len(names))
    for number, (name, (colour, marker, _)) in enumerate(variant_styles(groups)):
        part, means = table[table[group] == name], summary[summary[group] == name]
        shift = 0.25 * (number - (len(groups) - 1) / 2)
        style = {"color": colour, "marker": marker, "ms": 4, "ls": "", "mfc": "none"}
        axes.plot(part[value], [names.index(v) + shift for v in part[variant]], label=name, **style)
        heights = [names.index(v) + shift for v in means[variant]]
        axes.vlines(means["mean"], [y - 0.12 for y in heights], [y + 0.12 for y in heights], colour)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(xlabel or value)
    axes.grid(axis="y", color="0.9")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(groups))
    return figure, summary


@styled
def pareto(table: pd.DataFrame, costs: dict[str, str], score: str, ylabel: str):
    """A panel for each of `costs` (column -> label): the mean of `score` over the rows that share a
    `setting`, with whiskers from lowest to highest, a marker for each `decoder`, and the Pareto
    front in grey.

    The table: decoder, setting, mean, sd, lowest, highest, seeds, and the mean of each cost.
    """
    groups = table.groupby(["decoder", "setting"], sort=False)
    summary = groups[score].agg(**SEED_SPREAD)
    summary = summary.join(groups[[*costs]].mean()).reset_index()
    decoders = summary.decoder.unique()
    alt = f"{ylabel} against {listed(costs.values())} for {listed(decoders)}, with Pareto fronts."
    figure, [row] = subplots(alt, 1, len(costs), PAGE, 3.0, sharey=True)
    for axes, (cost, label) in zip(row, costs.items(), strict=True):
        front = summary.sort_values([cost, "mean"], ascending=[True, False])
        front = front[front["mean"] > front["mean"].cummax().shift(fill_value=-1)]
        axes.step(front[cost], front["mean"], where="post", color="0.8", lw=3, zorder=0)
        for name, (colour, marker, _) in variant_styles(decoders):
            part = summary[summary.decoder == name]
            error = whiskers(part["mean"], part["lowest"], part["highest"])
            style = {"color": colour, "fmt": marker, "ms": 4, "lw": 0.8, "label": name}
            axes.errorbar(part[cost], part["mean"], error, **style)
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
    row[0].set_ylabel(ylabel)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure, summary


@styled
def stacked_bars(table: pd.DataFrame, x: str, part: str, share: str, xlabel: str = ""):
    """A bar for each `x`, stacked from the mean `share` of each `part`.

    The table: x, and a column for each part.
    """
    summary = table.groupby([x, part], sort=False)[share].mean().unstack(part).sort_index()
    totals = [f"{total:.0%} at {value}" for value, total in summary.sum(axis=1).items()]
    alt = f"{xlabel or share} by {x}, split into {listed(summary)}; in total {listed(totals)}."
    figure, [[axes]] = subplots(alt, 1, 1, COLUMN, 0.9 + 0.32 * len(summary))
    left = pd.Series(0.0, summary.index)
    names = [str(value) for value in summary.index]
    for name, (colour, _, _) in variant_styles(summary):
        axes.barh(names, summary[name], 0.7, left=left, color=colour, label=name)
        left += summary[name]
    for row, total in enumerate(left):
        axes.text(total, row, f" {100 * total:.0f}%", va="center", fontsize=8, color=GREY)
    axes.set(xlabel=xlabel or share, ylabel=x, xlim=(0, 1.12 * left.max()))
    figure.legend(loc="outside lower center", ncols=2)
    return figure, summary.reset_index()


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
