"""The figure of benchmarks shows rivals, limits and who costs less."""

import pandas as pd
import pytest

from edge_lib import plots

COLUMNS = ["benchmark", "metric", "rival", "ours", "theirs", "ratio", "lowest", "kind"]


def table(*rows):
    return pd.DataFrame(rows, columns=COLUMNS)


ROWS = table(
    ("search", "seconds", "faiss", 2.0, 6.0, 3.0, 2.5, "rival"),
    ("search", "seconds", "limit", 2.0, 1.0, 0.5, 0.5, "limit"),
    ("search", "seconds", "ours_int8", 2.0, 1.0, 0.5, 0.5, "variant"),
    ("search", "memory_mb", "faiss", 4.0, 3.0, 0.75, 0.75, "rival"),
)


def test_cost_ratios_has_a_row_for_each_rival_with_the_limit_of_its_cost():
    figure, shown = plots.cost_ratios(ROWS)
    assert shown["rival"].tolist() == ["faiss", "faiss"]
    assert shown["limit"].tolist() == [0.5, pytest.approx(float("nan"), nan_ok=True)]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["search seconds, faiss", "search memory_mb, faiss"]
    marks = {line.get_label(): line.get_xdata().tolist() for line in figure.axes[0].lines[:3]}
    assert marks["rival, costs more"] == [3]
    assert marks["rival, costs less"] == [0.75]
    assert marks["limit"][0] == 0.5


def test_cost_ratios_alt_names_the_rivals_that_cost_less():
    figure, _ = plots.cost_ratios(ROWS)
    assert figure.alt == (
        "Costs of rivals relative to ours: 1 of 2 are higher; lower: search memory_mb of faiss."
    )
    figure, _ = plots.cost_ratios(ROWS[:1])
    assert figure.alt == "Costs of rivals relative to ours: 1 of 1 are higher."


def test_cost_ratios_without_a_rival_says_so():
    figure, shown = plots.cost_ratios(ROWS[1:3])
    assert figure.alt == "No benchmark has a rival."
    assert shown.empty
