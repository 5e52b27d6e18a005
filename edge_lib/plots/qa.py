"""Pictures of decoders: what they answer by kind of question, at what cost, and step by step."""

import pandas as pd

from edge_lib.plots.ablation import ARMS
from edge_lib.plots.style import COLUMN, PAGE, styled, subplots


@styled
def training_curves(histories: dict[str, pd.DataFrame], score: str, ylabel: str):
    """Training loss and a validation score of each arm, by its `Run.history()`.

    The table: arm, step, series, value.
    """
    long = [
        history.melt("step", [name for name in ("loss", score) if name in history], "series")
        .dropna()
        .assign(arm=arm)
        for arm, history in histories.items()
    ]
    table = pd.concat(long, ignore_index=True)
    figure, [[left, right]] = subplots(1, 2, PAGE, 2.8)
    for arm, (colour, marker, dash) in zip(histories, ARMS, strict=False):
        mine = table[table.arm == arm]
        loss, scores = mine[mine.series == "loss"], mine[mine.series == score]
        left.plot(loss.step, loss.value, color=colour, ls=dash, lw=1.2, label=arm)
        right.plot(scores.step, scores.value, color=colour, ls=dash, lw=1.2, marker=marker, ms=4)
    left.set(xlabel="training step", ylabel="training loss (nats a token)", yscale="log")
    right.set(xlabel="training step", ylabel=ylabel)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(ARMS))
    return figure, table


@styled
def kind_scores(scores: pd.DataFrame, xlabel: str):
    """A row for each `kind`, a dot with its interval (`low` to `high`) for each `arm`.

    The table: arm, kind, value, low, high, and whatever else was given.
    """
    kinds, names = (list(dict.fromkeys(scores[key])) for key in ("kind", "arm"))
    figure, [[axes]] = subplots(1, 1, COLUMN, 0.9 + 0.3 * len(kinds))
    for number, (name, (colour, marker, _)) in enumerate(zip(names, ARMS, strict=False)):
        part = scores[scores.arm == name]
        shift = 0.5 * (number - (len(names) - 1) / 2) / len(names)
        places = [kinds.index(kind) + shift for kind in part.kind]
        error = [(part.value - part.low).clip(lower=0), (part.high - part.value).clip(lower=0)]
        look = {"color": colour, "fmt": marker, "ms": 4, "lw": 1}
        axes.errorbar(part.value, places, xerr=error, label=name, **look)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set(xlabel=xlabel, xlim=(-0.02, 1.02), ylim=(len(kinds) - 0.5, -0.5))
    axes.grid(axis="y", color="0.9")
    figure.legend(loc="outside lower center", ncols=3)
    return figure, scores


@styled
def attention_steps(maps, titles):
    """Attention (steps, n, P) of n answers over the prefix's P vectors: a panel each, a row a step.

    The table: answer, step, vector, attention.
    """
    steps, count, width = maps.shape
    figure, [row] = subplots(1, count, PAGE, 0.9 + 0.22 * steps, sharey=True)
    for number, (axes, title) in enumerate(zip(row, titles, strict=True)):
        picture = axes.imshow(maps[:, number], aspect="auto", cmap="viridis", vmin=0)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("prefix vector")
        axes.set_yticks(range(steps), range(1, steps + 1))
        figure.colorbar(picture, ax=axes, shrink=0.8)
    row[0].set_ylabel("step")
    records = [
        (titles[n], s + 1, p, float(maps[s, n, p]))
        for n in range(count)
        for s in range(steps)
        for p in range(width)
    ]
    return figure, pd.DataFrame(records, columns=["answer", "step", "vector", "attention"])
