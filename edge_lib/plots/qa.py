"""Figures of decoders: training curves, scores by kind of question, attention by recursion step."""

import pandas as pd

from edge_lib.plots.style import (
    COLUMN,
    PAGE,
    VARIANT_STYLES,
    listed,
    plain_logs,
    styled,
    subplots,
    variant_styles,
    whiskers,
    wrapped,
)


@styled
def training_curves(histories: dict[str, pd.DataFrame], score: str, ylabel: str):
    """Training loss and a validation score of each variant, from its `Run.history()`.

    The table: step, series, value, variant.
    """
    long = [
        history.melt("step", [name for name in ("loss", score) if name in history], "series")
        .dropna()
        .assign(variant=variant)
        for variant, history in histories.items()
    ]
    table = pd.concat(long, ignore_index=True)
    last = table[table.series == score].groupby("variant", sort=False).value.last()
    values = [f"{value:.3g} ({variant})" for variant, value in last.items()]
    alt = f"Training loss and {ylabel} by step for {listed(histories)}"
    alt += f"; the last {score}: {listed(values)}." if values else "."
    figure, [[left, right]] = subplots(alt, 1, 2, PAGE, 2.8)
    for variant, (colour, marker, dash) in variant_styles(histories):
        own = table[table.variant == variant]
        loss, scores = own[own.series == "loss"], own[own.series == score]
        style = {"color": colour, "ls": dash, "lw": 1.2}
        left.plot(loss.step, loss.value, label=variant, **style)
        right.plot(scores.step, scores.value, marker=marker, ms=4, **style)
    left.set(xlabel="training step", ylabel="training loss (nats per token)", yscale="log")
    plain_logs(left)
    right.set(xlabel="training step", ylabel=ylabel)
    legend = {"loc": "outside lower center", "ncols": len(VARIANT_STYLES)}
    figure.legend(*left.get_legend_handles_labels(), **legend)
    return figure, table


MAX_KINDS = 60


@styled
def kind_scores(scores: pd.DataFrame, xlabel: str):
    """A row for each `kind`, with the `value` of each `variant` and its interval (`low`, `high`).

    The first 60 kinds are drawn. The table: `scores`.
    """
    names = list(scores["variant"].unique())
    kinds = list(scores["kind"].unique())[:MAX_KINDS]
    labels = [wrapped(kind, 40, 2) for kind in kinds]
    alt = f"{xlabel} of {listed(names)} for {listed(labels)}, with intervals."
    figure, [[axes]] = subplots(alt, 1, 1, COLUMN, 0.9 + 0.3 * len(kinds))
    for number, (name, (colour, marker, _)) in enumerate(variant_styles(names)):
        part = scores[(scores.variant == name) & scores.kind.isin(kinds)]
        shift = 0.5 * (number - (len(names) - 1) / 2) / len(names)
        heights = [kinds.index(kind) + shift for kind in part.kind]
        error = whiskers(part.value, part.low, part.high)
        style = {"color": colour, "fmt": marker, "ms": 4, "lw": 1}
        axes.errorbar(part.value, heights, xerr=error, label=name, **style)
    axes.set_yticks(range(len(kinds)), labels)
    axes.set(xlabel=xlabel, xlim=(-0.02, 1.02), ylim=(len(kinds) - 0.5, -0.5))
    axes.grid(axis="y", color="0.9")
    figure.legend(loc="outside lower center", ncols=3)
    return figure, scores


@styled
def attention_steps(maps, titles):
    """Attention (steps, n, P) of n answers over P prefix vectors: a panel per answer, a row per
    recursion step.

    The table: answer, step, vector, attention.
    """
    steps, count, width = maps.shape
    shown = [wrapped(title, 28) for title in titles]
    alt = f"Attention over {width} prefix vectors at {steps} recursion steps, for {listed(shown)}."
    figure, [row] = subplots(alt, 1, count, PAGE, 0.9 + 0.22 * steps, sharey=True)
    for number, (axes, title) in enumerate(zip(row, shown, strict=True)):
        image = axes.imshow(maps[:, number], aspect="auto", cmap="viridis", vmin=0)
        axes.set_title(title, fontsize=8)
        axes.set_xlabel("prefix vector")
        axes.set_yticks(range(steps), range(1, steps + 1))
        figure.colorbar(image, ax=axes, shrink=0.8)
    row[0].set_ylabel("step")
    records = [
        (titles[n], s + 1, p, float(maps[s, n, p]))
        for n in range(count)
        for s in range(steps)
        for p in range(width)
    ]
    return figure, pd.DataFrame(records, columns=["answer", "step", "vector", "attention"])
