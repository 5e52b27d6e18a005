"""The scene probes: swap scores and twin confusions, against cases worked by hand."""

import numpy as np
import pytest
import torch

from edge_lib.sources.scenes.probes import swap_scores, twin_confusions


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def swap_values(images, texts, **kwargs):
    table = swap_scores(torch.tensor(images), torch.tensor(texts), [len(images[0])], **kwargs)
    return table.set_index("score")["value"].to_dict()


RIGHT = [[1.0, 0.0], [0.0, 1.0]]
WRONG = [[0.0, 1.0], [1.0, 0.0]]
SKEWED = [[0.95, 0.31], [0.8, 0.6]]


@pytest.mark.parametrize(
    ("images", "texts", "text", "image", "group"),
    [
        (RIGHT, RIGHT, 1, 1, 1),
        (RIGHT, WRONG, 0, 0, 0),
        ([[0.95, 0.31], [0.71, 0.72]], RIGHT, 1, 1, 1),
        # both images are nearer to text 0, image 1 less so: each text still ranks its image first
        (SKEWED, RIGHT, 0, 1, 0),
        (RIGHT, SKEWED, 1, 0, 0),
        (RIGHT + RIGHT, RIGHT + WRONG, 0.5, 0.5, 0.5),
        (RIGHT + SKEWED, RIGHT + RIGHT, 0.5, 1, 0.5),
        (RIGHT + SKEWED, SKEWED + RIGHT, 0.5, 0.5, 0),
        ([[1.0, 1.0]] * 2, [[1.0, 1.0]] * 2, 0, 0, 0),
        ([[1.0, 1.0]] * 2, RIGHT, 0, 0, 0),
        (RIGHT, [[1.0, 1.0]] * 2, 0, 0, 0),
        ([[float("nan")] * 2] * 2, RIGHT, 0, 0, 0),
    ],
    ids=[
        "right",
        "wrong",
        "right_not_orthogonal",
        "skewed_images",
        "skewed_texts",
        "half_right",
        "half_skewed_images",
        "skewed_images_and_texts",
        "all_equal",
        "equal_images",
        "equal_texts",
        "nan_images",
    ],
)
def test_swap_scores_worked_by_hand(images, texts, text, image, group):
    assert swap_values(images, texts) == {"text": text, "image": image, "group": group}


@pytest.mark.parametrize("width", [3, 64, 257])
def test_swap_scores_are_zero_for_constant_embeddings(width):
    point = torch.randn(width).expand(60, -1)
    assert (swap_scores(point, point.clone(), [width, 2])["value"] == 0).all()


def test_swap_scores_are_zero_for_texts_equal_within_a_pair():
    texts = torch.randn(50, 33).repeat_interleave(2, 0)
    assert (swap_scores(torch.randn(100, 33), texts, [33, 5])["value"] == 0).all()


def test_swap_scores_of_noise_are_at_chance():
    table = swap_scores(torch.randn(8000, 64), torch.randn(8000, 64), [64], bootstrap=200)
    assert table["score"].tolist() == ["text", "image", "group"]
    assert table["chance"].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 6])
    np.testing.assert_allclose(table["value"], table["chance"], atol=0.03)
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()


def test_swap_scores_use_the_first_columns():
    images = torch.tensor([[1.0, 0, 0, 9], [0, 1, 9, 0]])
    texts = torch.tensor([[1.0, 0, 9, 0], [0, 1, 0, 9]])
    table = swap_scores(images, texts, [4, 2]).set_index(["dim", "score"])["value"]
    assert (table[4] == 0).all()
    assert (table[2] == 1).all()


def test_twin_confusions_by_hand():
    """Two groups of three; each query equals the gallery item of this index."""
    gallery = torch.eye(6)
    nearest = [0, 0, 1, 3, 2, 5]  # right, edit A, A and B, right, another scene, right
    edits = ["scene", "A", "B"]
    groups = np.array([7, 7, 7, 2, 2, 2])
    table = twin_confusions(gallery[nearest], gallery, groups, edits, [6])
    shares = dict(zip(table["confused"], table["share"], strict=True))
    assert shares == pytest.approx({"A": 1 / 6, "B": 0, "two edits": 1 / 6, "another scene": 1 / 6})


def test_twin_confusions_use_the_first_columns():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.1]])
    queries = gallery * torch.tensor([1.0, 3.0])  # only the second column separates the two
    table = twin_confusions(queries, gallery, np.zeros(2, int), ["scene", "A"], [1, 2])
    assert table.query("confused == 'A'").share.tolist() == [0.5, 0.0]
