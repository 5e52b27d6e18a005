"""Numbers against brute force and against cases worked by hand."""

import math

import numpy as np
import pytest
import torch

from edge_lib.metrics.bootstrap import bootstrap_interval
from edge_lib.metrics.recall import pair_rows, recall_metrics, recall_table, retrieval_ranks
from edge_lib.sources.scenes.probes import swap_scores, twin_confusions


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def brute_force(queries, gallery, query_rows, gallery_rows):
    """The full matrix, one query at a time, in float64."""
    ranks = []
    for query, row in zip(queries.double(), query_rows, strict=True):
        scores = (gallery.double() @ query) / gallery.double().norm(dim=1) / query.norm()
        right = torch.as_tensor(gallery_rows == row)
        best = scores[right].max() if right.any() else -math.inf
        ranks.append(int((scores[~right] >= best).sum()))
    return np.array(ranks)


# --- ranks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("captions", [1, 3])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_ranks_equal_the_full_matrix(captions, chunk):
    rows = np.repeat(np.arange(20), captions)
    shuffled = np.random.default_rng(0).permutation(rows)
    centres = torch.randn(20, 8)
    images = centres + torch.randn(20, 8)
    texts = (centres[shuffled] + torch.randn(len(rows), 8)) * torch.rand(len(rows), 1) * 9
    for a, b, a_rows, b_rows in (
        (images, texts, np.arange(20), shuffled),
        (texts, images, shuffled, np.arange(20)),
    ):
        found = retrieval_ranks(a, b, a_rows, b_rows, chunk=chunk)
        np.testing.assert_array_equal(found, brute_force(a, b, a_rows, b_rows))
        assert found.min() == 0
        assert found.max() > 3


@pytest.mark.parametrize("dims", [[3], [8, 2, 5], [2, 8]])
def test_ranks_at_many_dims_are_those_of_the_columns_alone(dims):
    rows = np.repeat(np.arange(15), 2)
    images, texts = torch.randn(15, 8), torch.randn(30, 8)
    found = retrieval_ranks(images, texts, np.arange(15), rows, dims, chunk=4)
    for dim, ranks in zip(dims, found, strict=True):
        alone = brute_force(images[:, :dim], texts[:, :dim], np.arange(15), rows)
        np.testing.assert_array_equal(ranks, alone)


def test_rows_default_to_the_diagonal():
    a, b = torch.randn(9, 4), torch.randn(9, 4)
    np.testing.assert_array_equal(
        retrieval_ranks(a, b), brute_force(a, b, np.arange(9), np.arange(9))
    )


def test_any_of_several_right_answers_counts_and_none_is_a_rival():
    queries = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.1], [1.0, 0.5], [1.0, 0.0]])
    for rows, rank in (([0, 0, 1, 0], 0), ([0, 0, 1, 1], 1), ([0, 1, 1, 1], 3), ([1, 1, 1, 1], 4)):
        found = retrieval_ranks(queries, gallery, np.array([0]), np.array(rows))
        assert found.tolist() == [rank], rows


def test_ties_count_against_the_query():
    queries = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    assert retrieval_ranks(queries, gallery, np.array([0]), np.arange(4)).tolist() == [2]


@pytest.mark.parametrize("count", [2, 50, 1100])
@pytest.mark.parametrize("width", [3, 130, 256])
def test_collapsed_embeddings_have_no_recall(count, width):
    point = torch.randn(width).expand(count, -1)
    ranks = retrieval_ranks(point, point.clone())
    assert (ranks == count - 1).all()
    assert (retrieval_ranks(torch.zeros_like(point), point) == count - 1).all()


@pytest.mark.parametrize("where", ["queries", "gallery", "both"])
def test_embeddings_that_are_not_numbers_have_no_recall(where):
    fine, broken = torch.eye(6), torch.full((6, 6), float("nan"))
    queries = fine if where == "gallery" else broken
    gallery = fine if where == "queries" else broken
    assert (retrieval_ranks(queries, gallery) == 5).all()


# --- recall ----------------------------------------------------------------------------------


def three_by_three():
    """Cosines of unit vectors at chosen angles; rows 0 and 2 hit, row 1 is second."""

    def at(*degrees):
        angles = torch.tensor(degrees).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    return {"vision": at(0.0, 40.0, 90.0), "text": at(10.0, 80.0, 95.0)}


def by(table, **wanted):
    """The one recall that fits."""
    for column, value in wanted.items():
        table = table[table[column] == value]
    (found,) = table["recall"]
    return found


def test_recall_worked_by_hand():
    rows = {"vision": np.arange(3), "text": np.arange(3)}
    table = recall_table(three_by_three(), rows, [2], [1, 2], groups=np.arange(3))
    # vision at 0, 40, 90 against text at 10, 80, 95: distances 10 80 95 / 30 40 55 / 80 10 5
    assert by(table, query="vision", k=1) == pytest.approx(2 / 3)
    assert by(table, query="vision", k=2) == 1
    # text at 10, 80, 95 against vision: 10 30 80 / 80 40 10 / 95 55 5
    assert by(table, query="text", k=1) == pytest.approx(2 / 3)
    assert by(table, query="text", k=2) == 1
    assert table.columns.tolist() == [
        *("query", "gallery", "dim", "k", "recall", "low", "high", "rows", "rule")
    ]
    assert set(table["rule"]) == {"one right answer"}
    assert set(table["rows"]) == {3}
    assert table[["low", "high"]].isna().all(axis=None)


def test_recall_of_a_dim_uses_its_first_columns():
    good, noise = torch.eye(4), torch.randn(4, 4) * 10
    embeddings = {
        "vision": torch.cat([good, noise], 1),
        "text": torch.cat([good, noise.flip(0)], 1),
    }
    rows = {"vision": np.arange(4), "text": np.arange(4)}
    table = recall_table(embeddings, rows, [8, 4, 1], [1], groups=np.arange(4))
    assert by(table, query="vision", dim=4) == 1
    assert by(table, query="vision", dim=8) < 1
    # one column says only which row is the first
    assert by(table, query="vision", dim=1) == 0.25


def test_recall_names_its_gallery_and_rule():
    rows = {"vision": np.array([0, 2]), "text": np.array([0, 0, 2])}
    embeddings = {"vision": torch.eye(2), "text": torch.eye(2)[[1, 0, 1]]}
    table = recall_table(embeddings, rows, [2], [1], groups=np.arange(3)).set_index("query")
    assert table.loc["vision", "rule"] == "any hit of several"
    assert table.loc["vision", "rows"] == 3
    assert table.loc["vision", "recall"] == 0.5, "row 2 is tied with row 0's first caption"
    assert table.loc["text", "rule"] == "one right answer"
    assert table.loc["text", "rows"] == 2
    assert table.loc["text", "recall"] == pytest.approx(2 / 3)


def test_three_modalities_are_compared_both_ways():
    embeddings = {name: torch.randn(5, 4) for name in ("vision", "audio", "text")}
    rows = dict.fromkeys(embeddings, np.arange(5))
    table = recall_table(embeddings, rows, [4, 2], [1, 5], groups=np.arange(5))
    directions = set(zip(table["query"], table["gallery"], strict=True))
    assert len(directions) == 6
    assert len(table) == 6 * 2 * 2
    assert (table[table["k"] == 5]["recall"] == 1).all()


def test_metric_names():
    rows = {"vision": np.arange(3), "text": np.arange(3)}
    table = recall_table(three_by_three(), rows, [1, 2], [1, 2], groups=np.arange(3))
    metrics = recall_metrics(table, "test")
    assert len(metrics) == 2 * 2 * 2 + 2 * 2
    assert metrics["test.vision_to_text.r1"] == metrics["test.vision_to_text.r1.dim2"]
    assert metrics["test.text_to_vision.r2"] == 1
    assert "test.text_to_vision.r2.dim1" in metrics
    assert all(type(value) is float for value in metrics.values())


# --- intervals -------------------------------------------------------------------------------


def test_interval_agrees_with_the_normal_one_on_single_rows():
    hits = np.random.default_rng(0).random(400) < 0.7
    low, high = bootstrap_interval(hits, np.arange(400), 2000)
    error = 1.96 * math.sqrt(hits.mean() * (1 - hits.mean()) / 400)
    assert (low, high) == pytest.approx((hits.mean() - error, hits.mean() + error), abs=0.01)


def test_twins_that_fail_together_widen_the_interval():
    hits = np.repeat(np.random.default_rng(0).random(100) < 0.6, 4)
    groups = np.repeat(np.arange(100), 4)
    low, high = bootstrap_interval(hits, groups, 2000)
    narrow_low, narrow_high = bootstrap_interval(hits, np.arange(400), 2000)
    assert (high - low) / (narrow_high - narrow_low) == pytest.approx(2, abs=0.25)
    assert low < hits.mean() < high


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    covered = 0
    for trial in range(200):
        rates = rng.beta(2, 2, 60)
        low, high = bootstrap_interval(rng.random(240) < rates[groups], groups, 300, seed=trial)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_interval_weighs_groups_by_their_size_and_takes_any_names():
    hits = np.array([1, 1, 1, 0.0])
    names = np.array([90, 90, 90, 7])
    low, high = bootstrap_interval(hits, names, 500)
    assert (low, high) == (0, 1)
    assert bootstrap_interval(hits, names, 500, seed=1) == (low, high)
    assert bootstrap_interval(np.ones(8), np.arange(8), 50) == (1, 1)
    assert all(map(math.isnan, bootstrap_interval(hits, names, 0)))


def test_recall_intervals_resample_groups_of_table_rows():
    good = torch.eye(40)
    texts = good.clone()
    texts[20:] = texts[20:].flip(0)
    rows = {"vision": np.arange(40), "text": np.arange(40)}
    kwargs = {"dims": [40], "ks": [1], "bootstrap": 1000}
    apart = recall_table({"vision": good, "text": texts}, rows, groups=np.arange(40), **kwargs)
    together = recall_table(
        {"vision": good, "text": texts}, rows, groups=np.arange(40) // 10, **kwargs
    )
    assert (apart["recall"] == 0.5).all()
    width = {
        name: (table["high"] - table["low"]).iloc[0]
        for name, table in {"apart": apart, "together": together}.items()
    }
    assert width["together"] > 2 * width["apart"]
    assert (apart["low"] <= 0.5).all()
    assert (apart["high"] >= 0.5).all()


# --- the swap probe --------------------------------------------------------------------------


def swap_values(images, texts, **kwargs):
    table = swap_scores(torch.tensor(images), torch.tensor(texts), [len(images[0])], **kwargs)
    return table.set_index("score")["value"].to_dict()


RIGHT = [[1.0, 0.0], [0.0, 1.0]]
WRONG = [[0.0, 1.0], [1.0, 0.0]]
LEANING = [[0.95, 0.31], [0.8, 0.6]]


@pytest.mark.parametrize(
    ("images", "texts", "text", "image", "group"),
    [
        (RIGHT, RIGHT, 1, 1, 1),
        (RIGHT, WRONG, 0, 0, 0),
        ([[0.95, 0.31], [0.71, 0.72]], RIGHT, 1, 1, 1),
        # both images lean to text 0, yet image 1 less: each text finds its image
        (LEANING, RIGHT, 0, 1, 0),
        (RIGHT, LEANING, 1, 0, 0),
        (RIGHT + RIGHT, RIGHT + WRONG, 0.5, 0.5, 0.5),
        (RIGHT + LEANING, RIGHT + RIGHT, 0.5, 1, 0.5),
        (RIGHT + LEANING, LEANING + RIGHT, 0.5, 0.5, 0),
        ([[1.0, 1.0]] * 2, [[1.0, 1.0]] * 2, 0, 0, 0),
        ([[1.0, 1.0]] * 2, RIGHT, 0, 0, 0),
        (RIGHT, [[1.0, 1.0]] * 2, 0, 0, 0),
        ([[float("nan")] * 2] * 2, RIGHT, 0, 0, 0),
    ],
)
def test_swap_scores_worked_by_hand(images, texts, text, image, group):
    assert swap_values(images, texts) == {"text": text, "image": image, "group": group}


@pytest.mark.parametrize("width", [3, 64, 257])
def test_constant_embeddings_score_nothing(width):
    point = torch.randn(width).expand(60, -1)
    assert (swap_scores(point, point.clone(), [width, 2])["value"] == 0).all()


def test_texts_that_cannot_tell_the_pair_apart_score_nothing():
    texts = torch.randn(50, 33).repeat_interleave(2, 0)
    assert (swap_scores(torch.randn(100, 33), texts, [33, 5])["value"] == 0).all()


def test_noise_scores_at_chance():
    table = swap_scores(torch.randn(8000, 64), torch.randn(8000, 64), [64], bootstrap=200)
    assert table["score"].tolist() == ["text", "image", "group"]
    assert table["chance"].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 6])
    np.testing.assert_allclose(table["value"], table["chance"], atol=0.03)
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()


def test_swap_dims_use_the_first_columns():
    images = torch.tensor([[1.0, 0, 0, 9], [0, 1, 9, 0]])
    texts = torch.tensor([[1.0, 0, 9, 0], [0, 1, 0, 9]])
    table = swap_scores(images, texts, [4, 2]).set_index(["dim", "score"])["value"]
    assert (table[4] == 0).all()
    assert (table[2] == 1).all()


# --- pairs -----------------------------------------------------------------------------------


def test_pairs_take_the_first_item_of_rows_that_have_all():
    rows = {"vision": np.array([0, 2, 3, 5]), "text": np.array([0, 0, 1, 3, 3, 5, 7])}
    embeddings = {name: torch.arange(len(owners))[:, None] for name, owners in rows.items()}
    paired, shared = pair_rows(embeddings, rows)
    assert shared.tolist() == [0, 3, 5]
    assert paired["vision"][:, 0].tolist() == [0, 2, 3]
    assert paired["text"][:, 0].tolist() == [0, 3, 5]


def test_pairs_of_nothing_in_common_are_empty():
    rows = {"vision": np.array([0, 1]), "text": np.array([2, 3])}
    paired, shared = pair_rows({name: torch.ones(2, 3) for name in rows}, rows)
    assert len(shared) == 0
    assert paired["vision"].shape == (0, 3)


def test_a_query_whose_answer_was_skipped_is_not_asked():
    points = torch.eye(6)
    embeddings = {"vision": points[:4], "text": points}
    rows = {"vision": np.arange(4), "text": np.arange(6)}
    recall = recall_table(embeddings, rows, [6], [1], np.arange(6))
    assert recall["recall"].tolist() == [1, 1]
    assert recall["rows"].tolist() == [6, 4]


# --- strictly, and by any of several ---------------------------------------------------------


def test_any_hit_and_strict_by_hand():
    """Two images of two captions; image 0 finds its captions first and third, image 1 first and
    second. Strictly, half of the captions come first."""
    images = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    captions = torch.tensor([[0.9, 0.1, 0], [0.5, 0, 0.87], [0.1, 1, 0], [0.7, 0.7, 0]])
    embeddings = {"vision": images, "text": captions}
    rows = {"vision": np.arange(2), "text": np.array([0, 0, 1, 1])}
    asked = (embeddings, rows, [3], [1, 2, 3], np.arange(2))
    kept = [("vision", "text")]
    loose = recall_table(*asked, pairs=kept).query("query == 'vision'")
    strict = recall_table(*asked, pairs=kept, strict=True).query("query == 'vision'")
    assert loose.recall.tolist() == [1, 1, 1]
    assert strict.recall.tolist() == [0.5, 0.75, 1]
    assert loose.rule.unique() == ["any hit of several"]
    assert strict.rule.unique() == ["each of several on its own"]
    assert strict.rows.unique() == [4]


# --- confusions ------------------------------------------------------------------------------


def test_twin_confusions_by_hand():
    """Two groups of three; each query points at the gallery item named below."""
    gallery = torch.eye(6)
    finds = [0, 0, 1, 3, 2, 5]  # right, edit A, A and B, right, another scene, right
    edits = ["scene", "A", "B"]
    groups = np.array([7, 7, 7, 2, 2, 2])
    table = twin_confusions(gallery[finds], gallery, groups, edits, [6])
    found = dict(zip(table["confused"], table["share"], strict=True))
    assert found == pytest.approx({"A": 1 / 6, "B": 0, "two edits": 1 / 6, "another scene": 1 / 6})


def test_twin_confusions_use_the_first_columns():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    queries = gallery * torch.tensor([1.0, 3.0])  # tells them apart by the second column alone
    table = twin_confusions(queries, gallery, np.zeros(2, int), ["scene", "A"], [1, 2])
    assert table.query("confused == 'A'").share.tolist() == [0.5, 0.0]
