"""How well the layers of two modalities' frozen encoders agree."""

import pandas as pd
import seaborn as sns

from edge_lib.plots.style import PAGE, listed, styled, subplots, variant_styles

MEASURES = {"unbiased_cka": "linear CKA, unbiased", "knn": "mutual nearest neighbours"}


@styled
def layer_heatmaps(table: pd.DataFrame):
    """CKA and mutual neighbours of all layers, a panel each.

    table: of `experiments.compare` for one pair of modalities, which is also the figure's table.
    """
    panels = [_matrix(table, measure) for measure in MEASURES]
    rows, columns = panels[0].shape
    height = min(9.0, 1.6 + 0.26 * rows)
    figure, [axes] = subplots(_alt(table), 1, 2, PAGE, height, sharey=True)
    for panel, matrix, title in zip(axes, panels, MEASURES.values(), strict=True):
        few = rows <= 12 and columns <= 9
        style = {"cmap": "viridis", "annot": few, "fmt": ".2f", "annot_kws": {"fontsize": 8}}
        bar = {"location": "bottom", "shrink": 0.8}
        sns.heatmap(matrix, ax=panel, vmin=0, cbar_kws=bar, **style)
        panel.set(title=title, xlabel=table["modality_b"].iloc[0], ylabel="")
        panel.tick_params(axis="x", rotation=90)
    axes[0].set_ylabel(table["modality_a"].iloc[0])
    axes[0].tick_params(axis="y", rotation=0)
    return figure, table


def _matrix(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Values by the candidates of both modalities, in the order of the table."""
    names = {side: _names(table, side) for side in ("a", "b")}
    matrix = pd.DataFrame({**names, "value": table[measure]}).pivot(index="a", columns="b")["value"]
    return matrix.loc[names["a"].unique(), names["b"].unique()]


def _names(table: pd.DataFrame, side: str) -> pd.Series:
    """A candidate's layer, with its encoder where there are several."""
    encoders, layers = table[f"encoder_{side}"], table[f"layer_{side}"].astype(str)
    short = encoders.str.split("/").str[-1]
    return short + " " + layers if encoders.nunique() > 1 else layers


def _alt(table: pd.DataFrame) -> str:
    """The pair that agrees best by mutual neighbours."""
    best = table.loc[table["knn"].idxmax()]
    pair = f"layer {best.layer_a} of {best.encoder_a} and layer {best.layer_b} of {best.encoder_b}"
    return (
        f"Heatmaps of CKA and mutual neighbours of {best.modality_a} and {best.modality_b} layers "
        f"on {best.rows:,} rows; most neighbours are shared by {pair}: {best.knn:.2f}, by chance "
        f"{best.chance:.3f}."
    )


@styled
def agreement_scores(table: pd.DataFrame, score: str, ylabel: str):
    """`score` after training against each measure before it, a colour for each layer of the first
    modality; Spearman's rank correlation stands above. table: a row for each pair of layers.
    """
    ranks = table[[*MEASURES, score]].corr("spearman")[score]
    values = listed(f"{title} {ranks[name]:.2f}" for name, title in MEASURES.items())
    alt = f"{ylabel} of {len(table)} pairs of layers by agreement before training; Spearman's "
    figure, [row] = subplots(f"{alt}rank correlation: {values}.", 1, 2, PAGE, 3.2, sharey=True)
    layers = [*table["layer_a"].unique()]
    for axes, (measure, title) in zip(row, MEASURES.items(), strict=True):
        for layer, (colour, marker, _) in variant_styles(layers):
            part = table[table["layer_a"] == layer]
            label = f"{part['modality_a'].iloc[0]} layer {layer}"
            axes.plot(part[measure], part[score], marker, color=colour, ms=5, label=label)
        axes.set(xlabel=title, title=f"rank correlation {ranks[measure]:.2f}")
    row[0].set_ylabel(ylabel)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure, table
