"""Retrieval ranks and recall, against brute force and cases worked by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from edge_lib.metrics.recall import (
    chance_recall,
    pair_rows,
    recall_metrics,
    recall_table,
    retrieval_ranks,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def brute_force(queries, gallery, query_rows, gallery_rows):
    """The full matrix, one query at a time, in float64."""
    ranks = []
    for query, row in zip(queries.double(), query_rows, strict=True):
        scores = (gallery.double() @ query) / gallery.double().norm(dim=1) / query.norm()
        relevant = torch.as_tensor(gallery_rows == row)
        best = scores[relevant].max() if relevant.any() else -math.inf
        ranks.append(int((scores[~relevant] >= best).sum()))
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
        ranks = retrieval_ranks(a, b, a_rows, b_rows, chunk=chunk)
        np.testing.assert_array_equal(ranks, brute_force(a, b, a_rows, b_rows))
        assert ranks.min() == 0
        assert ranks.max() > 3


@pytest.mark.parametrize("dims", [[3], [8, 2, 5], [2, 8]], ids=str)
def test_ranks_at_many_dims_equal_those_of_the_columns_alone(dims):
    rows = np.repeat(np.arange(15), 2)
    images, texts = torch.randn(15, 8), torch.randn(30, 8)
    ranks = retrieval_ranks(images, texts, np.arange(15), rows, dims, chunk=4)
    for dim, actual in zip(dims, ranks, strict=True):
        expected = brute_force(images[:, :dim], texts[:, :dim], np.arange(15), rows)
        np.testing.assert_array_equal(actual, expected)


def test_ranks_default_to_pairs_on_the_diagonal():
    a, b = torch.randn(9, 4), torch.randn(9, 4)
    np.testing.assert_array_equal(
        retrieval_ranks(a, b), brute_force(a, b, np.arange(9), np.arange(9))
    )


def test_ranks_count_any_of_several_relevant_items_and_none_as_wrong():
    queries = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[0.0, 1.0], [1.0, 0.1], [1.0, 0.5], [1.0, 0.0]])
    for rows, rank in (([0, 0, 1, 0], 0), ([0, 0, 1, 1], 1), ([0, 1, 1, 1], 3), ([1, 1, 1, 1], 4)):
        ranks = retrieval_ranks(queries, gallery, np.array([0]), np.array(rows))
        assert ranks.tolist() == [rank], rows


def test_ranks_count_ties_against_the_query():
    queries = torch.tensor([[1.0, 0.0]])
    gallery = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    assert retrieval_ranks(queries, gallery, np.array([0]), np.arange(4)).tolist() == [2]


@pytest.mark.parametrize("count", [2, 50, 1100])
@pytest.mark.parametrize("width", [3, 130, 256])
def test_ranks_are_worst_for_collapsed_embeddings(count, width):
    point = torch.randn(width).expand(count, -1)
    ranks = retrieval_ranks(point, point.clone())
    assert (ranks == count - 1).all()
    assert (retrieval_ranks(torch.zeros_like(point), point) == count - 1).all()


@pytest.mark.parametrize("nan_side", ["queries", "gallery", "both"])
def test_ranks_are_worst_for_nan_embeddings(nan_side):
    finite, nan = torch.eye(6), torch.full((6, 6), float("nan"))
    queries = finite if nan_side == "gallery" else nan
    gallery = finite if nan_side == "queries" else nan
    assert (retrieval_ranks(queries, gallery) == 5).all()


# --- recall ----------------------------------------------------------------------------------


def three_by_three():
    """Unit vectors at chosen angles: rows 0 and 2 are hits, row 1 ranks second."""

    def at(*degrees):
        angles = torch.tensor(degrees).deg2rad()
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    return {"vision": at(0.0, 40.0, 90.0), "text": at(10.0, 80.0, 95.0)}


def recall_where(table, **values):
    """The recall of the only row with these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table["recall"].item()


def test_recall_worked_by_hand():
    rows = {"vision": np.arange(3), "text": np.arange(3)}
    table = recall_table(three_by_three(), rows, [2], [1, 2], groups=np.arange(3))
    # vision at 0, 40, 90 against text at 10, 80, 95: distances 10 80 95 / 30 40 55 / 80 10 5
    assert recall_where(table, query="vision", k=1) == pytest.approx(2 / 3)
    assert recall_where(table, query="vision", k=2) == 1
    # text at 10, 80, 95 against vision: 10 30 80 / 80 40 10 / 95 55 5
    assert recall_where(table, query="text", k=1) == pytest.approx(2 / 3)
    assert recall_where(table, query="text", k=2) == 1
    assert table.columns.tolist() == [
        *("query", "gallery", "dim", "k", "recall", "low", "high", "rows", "rule", "chance")
    ]
    assert set(table["rule"]) == {"one right answer"}
    assert set(table["rows"]) == {3}
    assert table[["low", "high"]].isna().all(axis=None)


def test_recall_at_a_dim_uses_its_first_columns():
    good, noise = torch.eye(4), torch.randn(4, 4) * 10
    embeddings = {
        "vision": torch.cat([good, noise], 1),
        "text": torch.cat([good, noise.flip(0)], 1),
    }
    rows = {"vision": np.arange(4), "text": np.arange(4)}
    table = recall_table(embeddings, rows, [8, 4, 1], [1], groups=np.arange(4))
    assert recall_where(table, query="vision", dim=4) == 1
    assert recall_where(table, query="vision", dim=8) < 1
    # the first column only separates row 0 from the others
    assert recall_where(table, query="vision", dim=1) == 0.25


def test_recall_table_has_gallery_size_and_rule():
    rows = {"vision": np.array([0, 2]), "text": np.array([0, 0, 2])}
    embeddings = {"vision": torch.eye(2), "text": torch.eye(2)[[1, 0, 1]]}
    table = recall_table(embeddings, rows, [2], [1], groups=np.arange(3)).set_index("query")
    assert table.loc["vision", "rule"] == "any hit of several"
    assert table.loc["vision", "rows"] == 3
    assert table.loc["vision", "recall"] == 0.5, "row 2 is tied with row 0's first caption"
    assert table.loc["text", "rule"] == "one right answer"
    assert table.loc["text", "rows"] == 2
    assert table.loc["text", "recall"] == pytest.approx(2 / 3)


def test_recall_covers_three_modalities_in_both_directions():
    embeddings = {name: torch.randn(5, 4) for name in ("vision", "audio", "text")}
    rows = dict.fromkeys(embeddings, np.arange(5))
    table = recall_table(embeddings, rows, [4, 2], [1, 5], groups=np.arange(5))
    directions = set(zip(table["query"], table["gallery"], strict=True))
    assert len(directions) == 6
    assert len(table) == 6 * 2 * 2
    assert (table[table["k"] == 5]["recall"] == 1).all()


def test_recall_metrics_have_flat_names():
    rows = {"vision": np.arange(3), "text": np.arange(3)}
    table = recall_table(three_by_three(), rows, [1, 2], [1, 2], groups=np.arange(3))
    metrics = recall_metrics(table, "test")
    assert len(metrics) == 2 * 2 * 2 + 2 * 2
    assert metrics["test.vision_to_text.r1"] == metrics["test.vision_to_text.r1.dim2"]
    assert metrics["test.text_to_vision.r2"] == 1
    assert "test.text_to_vision.r2.dim1" in metrics
    assert all(type(value) is float for value in metrics.values())


def test_recall_intervals_resample_groups_of_table_rows():
    good = torch.eye(40)
    texts = good.clone()
    texts[20:] = texts[20:].flip(0)
    rows = {"vision": np.arange(40), "text": np.arange(40)}
    kwargs = {"dims": [40], "ks": [1], "bootstrap": 1000}
    embeddings = {"vision": good, "text": texts}
    single = recall_table(embeddings, rows, groups=np.arange(40), **kwargs)
    grouped = recall_table(embeddings, rows, groups=np.arange(40) // 10, **kwargs)
    assert (single["recall"] == 0.5).all()
    single_width, grouped_width = ((t["high"] - t["low"]).iloc[0] for t in (single, grouped))
    assert grouped_width > 2 * single_width
    assert (single["low"] <= 0.5).all()
    assert (single["high"] >= 0.5).all()


# --- any hit and strict ----------------------------------------------------------------------


def test_recall_any_hit_and_strict_by_hand():
    """Two images of two captions each; image 0 ranks its captions first and third, image 1 first
    and second. In strict mode half of the captions rank first."""
    images = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    captions = torch.tensor([[0.9, 0.1, 0], [0.5, 0, 0.87], [0.1, 1, 0], [0.7, 0.7, 0]])
    embeddings = {"vision": images, "text": captions}
    rows = {"vision": np.arange(2), "text": np.array([0, 0, 1, 1])}
    args = (embeddings, rows, [3], [1, 2, 3], np.arange(2))
    pairs = [("vision", "text")]
    any_hit = recall_table(*args, pairs=pairs).query("query == 'vision'")
    strict = recall_table(*args, pairs=pairs, strict=True).query("query == 'vision'")
    assert any_hit.recall.tolist() == [1, 1, 1]
    assert strict.recall.tolist() == [0.5, 0.75, 1]
    assert any_hit.rule.unique() == ["any hit of several"]
    assert strict.rule.unique() == ["each of several on its own"]
    assert strict.rows.unique() == [4]


# --- equal items -----------------------------------------------------------------------------


def five_speakers(sentences=20):
    """Five recordings of each sentence, each in a row with the sentence; both ideally embedded."""
    sentence = np.arange(5 * sentences) // 5
    clips = torch.eye(sentences)[sentence] + 0.01 * torch.randn(5 * sentences, sentences)
    embeddings = {"audio": clips, "text": torch.eye(sentences)[sentence]}
    rows = dict.fromkeys(embeddings, np.arange(5 * sentences))
    return embeddings, rows, {"audio": np.arange(5 * sentences), "text": sentence}


@pytest.mark.parametrize("strict", [False, True])
def test_recall_of_five_speakers_a_sentence_is_perfect(strict):
    embeddings, rows, labels = five_speakers()
    options = embeddings, rows, [20], [1], np.arange(100)
    by_audio, by_text = recall_table(*options, labels=labels, strict=strict).recall
    assert by_audio == 1
    # in strict mode each of the five clips must be first for its caption: one in five is
    assert by_text == (0.2 if strict else 1)
    table = recall_table(*options, labels=labels)
    assert set(table["rule"]) == {"one right answer, 100 items equal another"}
    assert recall_table(*options).recall.tolist()[0] == 0  # each caption is tied with its equals


def test_ranks_of_equal_items_equal_the_definition():
    """Right: in some row, an item equal to the query stands beside one equal to the answer."""
    rng = np.random.default_rng(0)
    query_rows, gallery_rows = rng.integers(0, 25, 60), rng.integers(0, 25, 80)
    query_labels, gallery_labels = rng.integers(0, 40, 60), rng.integers(0, 50, 80) * 10**12
    queries, gallery = torch.randn(60, 6), torch.randn(80, 6)
    together = {
        (query_labels[i], gallery_labels[j])
        for i in range(60)
        for j in np.flatnonzero(gallery_rows == query_rows[i])
    }
    cosines = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(gallery).T
    expected = []
    for scores, label in zip(cosines, query_labels, strict=True):
        right = torch.tensor([(label, other) in together for other in gallery_labels])
        best = scores[right].max() if right.any() else -math.inf
        expected.append(int((scores[~right] >= best).sum()))
    options = {"query_labels": query_labels, "gallery_labels": gallery_labels}
    ranks = retrieval_ranks(queries, gallery, query_rows, gallery_rows, chunk=7, **options)
    assert ranks.tolist() == expected


def test_recall_of_different_labels_is_recall_without():
    embeddings = {"vision": torch.randn(30, 8), "text": torch.randn(90, 8)}
    rows = {"vision": np.arange(30), "text": np.arange(30).repeat(3)}
    labels = {"vision": np.arange(30)[::-1].copy(), "text": np.arange(90) * 7}
    options = embeddings, rows, [8, 2], [1, 5], np.arange(30), 100
    for strict in (False, True):
        plain = recall_table(*options, strict=strict)
        assert recall_table(*options, strict=strict, labels=labels).equals(plain)


def test_recall_takes_one_caption_of_all_rows():
    embeddings = {"vision": torch.randn(9, 4), "text": torch.randn(1, 4).expand(9, 4)}
    rows, labels = dict.fromkeys(embeddings, np.arange(9)), {"vision": np.arange(9)}
    table = recall_table(
        embeddings, rows, [4], [1], np.arange(9), labels=labels | {"text": np.zeros(9, int)}
    )
    assert table.recall.tolist() == [1, 1]


def test_recall_without_any_pair_is_nan():
    embeddings = {"vision": torch.eye(2), "text": torch.eye(2)}
    rows = {"vision": np.arange(2), "text": np.arange(2, 4)}
    table = recall_table(embeddings, rows, [2], [1], np.arange(4), labels=rows)
    assert table.recall.isna().all()


# --- chance ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("relevant", "gallery", "k"), [(1, 9, 1), (3, 9, 1), (3, 9, 4), (8, 9, 2)])
def test_chance_is_the_share_of_draws_with_a_right_answer(relevant, gallery, k):
    draws = [*itertools.combinations(range(gallery), k)]
    hits = sum(min(draw) < relevant for draw in draws)
    assert chance_recall([relevant], gallery, k) == pytest.approx(hits / len(draws))


def test_chance_is_a_mean_over_queries_and_reaches_one_in_a_small_gallery():
    assert chance_recall([1, 2, 3, 0], 10, 1) == pytest.approx(0.15)
    assert chance_recall([1, 2], 3, 5) == 1
    assert chance_recall([0], 3, 5) == 0


@pytest.mark.parametrize("strict", [False, True])
def test_chance_of_equal_items_is_the_recall_of_random_embeddings(strict):
    sentence = np.r_[np.zeros(20, int), np.arange(1, 41)]  # 20 of 60 clips share a caption
    rows = dict.fromkeys(("audio", "text"), np.arange(60))
    options = {"labels": {"audio": np.arange(60), "text": sentence}, "strict": strict}
    random = [{name: torch.randn(60, 16) for name in rows} for _ in range(150)]
    tables = [recall_table(x, rows, [16], [1], np.arange(60), **options) for x in random]
    chance = tables[0].set_index("query").chance
    any_right = (20 * 20 + 40) / 60 / 60
    assert chance["audio"] == pytest.approx(any_right)
    assert chance["text"] == pytest.approx(1 / 60 if strict else any_right)
    mean = pd.concat(tables).groupby("query").recall.mean()
    np.testing.assert_allclose(mean, chance[mean.index], atol=0.01)


# --- pairs -----------------------------------------------------------------------------------


def test_pair_rows_takes_first_items_of_complete_rows():
    rows = {"vision": np.array([0, 2, 3, 5]), "text": np.array([0, 0, 1, 3, 3, 5, 7])}
    embeddings = {name: torch.arange(len(owners))[:, None] for name, owners in rows.items()}
    paired, shared = pair_rows(embeddings, rows)
    assert shared.tolist() == [0, 3, 5]
    assert paired["vision"][:, 0].tolist() == [0, 2, 3]
    assert paired["text"][:, 0].tolist() == [0, 3, 5]


def test_pair_rows_takes_the_first_complete_row_of_each_key():
    rows = {"vision": np.array([0, 2, 3, 4, 5]), "text": np.array([1, 2, 3, 4, 5])}
    embeddings = {name: owners[:, None] for name, owners in rows.items()}
    paired, shared = pair_rows(embeddings, rows, keys=np.array([7, 7, 7, 3, 7, 3]))
    assert shared.tolist() == [2, 3]  # row 0 of key 7 has no text
    assert paired["vision"][:, 0].tolist() == paired["text"][:, 0].tolist() == [2, 3]


def test_pair_rows_is_empty_without_shared_rows():
    rows = {"vision": np.array([0, 1]), "text": np.array([2, 3])}
    paired, shared = pair_rows({name: torch.ones(2, 3) for name in rows}, rows)
    assert len(shared) == 0
    assert paired["vision"].shape == (0, 3)


def test_recall_leaves_out_queries_whose_answer_was_skipped():
    points = torch.eye(6)
    embeddings = {"vision": points[:4], "text": points}
    rows = {"vision": np.arange(4), "text": np.arange(6)}
    recall = recall_table(embeddings, rows, [6], [1], np.arange(6))
    assert recall["recall"].tolist() == [1, 1]
    assert recall["rows"].tolist() == [6, 4]


def test_strict_rule_is_told_apart_where_queries_are_equal():
    """Two pictures share a caption: either is right for it, but strictly its own alone."""
    vision = torch.eye(3)
    text = torch.stack([vision[0], vision[0], vision[2]])
    rows, labels = np.arange(3), {"vision": np.arange(3), "text": np.array([0, 0, 1])}
    arguments = {"vision": vision, "text": text}, {"vision": rows, "text": rows}, [3], [1], rows
    either, strict = (recall_table(*arguments, labels=labels, strict=s) for s in (False, True))
    table = pd.concat([either, strict]).set_index(["query", "rule"]).recall
    assert table["text", "one right answer, 2 items equal another"] == 1
    strictly = table["text", "each of several on its own, 2 items equal another"]
    assert strictly == pytest.approx(2 / 3)
