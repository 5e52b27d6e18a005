"""mAP@R and R-precision against the definition, item by item, and every order of a gallery."""

from itertools import permutations

import numpy as np
import pytest
import torch

from edge_lib.metrics.precision import (
    chance_precision,
    precision_at_r,
    precision_metrics,
    precision_table,
)
from edge_lib.metrics.recall import RelevantItems


def by_definition(scores, right):
    """AP@R and R-precision of one query; of equal scores the wrong item comes first."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item in right))
    hits = [item in right for item in order[: len(right)]]
    precisions = [np.mean(hits[: k + 1]) for k in range(len(hits)) if hits[k]]
    return sum(precisions) / len(right), np.mean(hits)


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_precision_equals_the_definition(chunk):
    rng = np.random.default_rng(1)
    query_rows, gallery_rows = rng.integers(0, 5, 12), rng.integers(0, 5, 17)
    vectors = torch.tensor([[1.0, 0], [0, 1], [3, 4], [4, 3]])  # many cosines tie, exactly
    queries, gallery = (vectors[rng.integers(0, 4, n)] for n in (12, 17))
    relevant = RelevantItems(query_rows, gallery_rows)
    values = precision_at_r(queries, gallery, relevant, [2], chunk)[:, 0]
    unit = [x / x.norm(dim=1, keepdim=True) for x in (queries, gallery)]
    cosines = (unit[0] @ unit[1].T).numpy().round(6)
    expected = [
        by_definition(cosines[q], set(np.flatnonzero(gallery_rows == query_rows[q])))
        for q in range(12)
    ]
    np.testing.assert_allclose(values.T, expected, atol=1e-6)
    assert len({*values[0].round(3)}) > 2


def test_precision_by_hand_at_each_dim():
    gallery = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 5], [0.8, 0.3, 0], [0, 1, 0]])
    relevant = RelevantItems(np.array([7]), np.array([7, 3, 7, 7]))
    query = torch.tensor([[1.0, 0, 0]])
    ap, precision = precision_at_r(query, gallery, relevant, [3, 2])[..., 0]
    assert ap.tolist() == pytest.approx([(1 + 1) / 3, (1 + 2 / 3) / 3])
    assert precision.tolist() == pytest.approx([2 / 3, 2 / 3])


def test_precision_of_collapsed_or_nan_embeddings_is_zero():
    relevant = RelevantItems(np.arange(3), np.repeat(np.arange(3), 2))
    for point in (torch.ones(2), torch.full((2,), torch.nan)):
        values = precision_at_r(point.expand(3, 2), point.expand(6, 2), relevant, [2])
        assert (values == 0).all()


def test_precision_is_one_if_all_items_are_right():
    relevant = RelevantItems(np.zeros(2, int), np.zeros(4, int))
    assert (precision_at_r(torch.randn(2, 3), torch.randn(4, 3), relevant, [3]) == 1).all()


@pytest.mark.parametrize("right", [1, 2, 3, 5])
def test_chance_is_the_mean_over_all_orders(right):
    orders = permutations(range(5))
    scores = [by_definition([-o.index(n) for n in range(5)], set(range(right))) for o in orders]
    chance = chance_precision(np.array([right]), 5)
    assert [*chance.values()] == pytest.approx(np.mean(scores, axis=0))


def test_table_takes_equal_items_as_right_and_leaves_out_queries_without_one():
    """Rows 0 and 1 have the same caption (label 5), and row 2 has no picture."""
    embeddings = {"vision": torch.eye(3)[:2], "text": torch.eye(3)[[0, 0, 2]]}
    rows = {"vision": np.array([0, 1]), "text": np.array([0, 1, 2])}
    labels = {"vision": np.array([0, 1]), "text": np.array([5, 5, 6])}
    table = precision_table(embeddings, rows, [3], np.arange(3), 50, labels)
    table = table.set_index(["query", "measure"])
    assert table.loc[("text", "map_at_r"), ["value", "right", "rows"]].tolist() == [1, 2, 2]
    # picture 0 finds both captions; those of picture 1 tie with a wrong one: (1 + 1/4) / 2
    assert table.loc[("vision", "map_at_r"), ["value", "right", "rows"]].tolist() == [0.625, 2, 3]
    assert table.loc[("vision", "r_precision"), "chance"] == pytest.approx(2 / 3)
    assert (table["low"] <= table["value"]).all()


def test_metrics_name_the_full_dim_without_it():
    embeddings = {"vision": torch.eye(3), "text": torch.eye(3)}
    rows = {name: np.arange(3) for name in embeddings}
    metrics = precision_metrics(precision_table(embeddings, rows, [3, 1], np.arange(3)), "test")
    assert metrics["test.vision_to_text.map_at_r"] == 1
    assert metrics["test.vision_to_text.map_at_r.dim1"] == pytest.approx(1 / 3)
    assert len(metrics) == 2 * 2 * 3
