"""Text, image and group scores against the published rules, one example at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edge_lib.metrics.contrasts import contrast_scores, example_scores


def values(scores, **options):
    return contrast_scores([scores], [4], **options).set_index("score")["value"].to_dict()


def winoground(s):
    """The scores of one example by the four inequalities of the Winoground paper (section 3.3)."""
    text = s[0][0] > s[0][1] and s[1][1] > s[1][0]
    image = s[0][0] > s[1][0] and s[1][1] > s[0][1]
    return text, image, text and image


def test_scores_of_two_pictures_equal_the_published_rule():
    scores = torch.randint(0, 4, (300, 2, 2), generator=torch.Generator().manual_seed(0)).float()
    expected = np.mean([winoground(s) for s in scores.tolist()], axis=0)  # a third have a tie
    assert [*values(scores).values()] == pytest.approx(expected)
    assert 0.05 < expected.min() < expected.max() < 0.3


def test_scores_of_one_picture_are_of_the_text_alone():
    scores = torch.tensor([[[2.0, 1]], [[1, 2]], [[1, 1]], [[3, -3]], [[float("nan"), 0]]])
    table = contrast_scores([scores], [4])
    assert table[["score", "value", "chance"]].to_numpy().tolist() == [["text", 0.4, 0.5]]


@pytest.mark.parametrize("pictures", [1, 2])
def test_chance_is_the_score_of_noise(pictures):
    noise = torch.randn(40_000, pictures, 2, generator=torch.Generator().manual_seed(0))
    table = contrast_scores([noise], [4])
    np.testing.assert_allclose(table["value"], table["chance"], atol=0.01)


def test_intervals_resample_examples():
    scores = torch.tensor([[[1.0, 0]]] * 30 + [[[0, 1.0]]] * 70)
    row = contrast_scores([scores], [4], bootstrap=2000).iloc[0]
    spread = 1.96 * (0.3 * 0.7 / 100) ** 0.5
    assert (row.low, row.high) == pytest.approx((0.3 - spread, 0.3 + spread), abs=0.02)


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("chunk", [1, 3, 128])
def test_example_scores_are_cosines_within_the_example(pictures, chunk):
    torch.manual_seed(0)
    images, texts = torch.randn(7 * pictures, 6), torch.randn(14, 6)
    for dim, scores in zip([6, 2], example_scores(images, texts, [6, 2], chunk), strict=True):
        assert scores.shape == (7, pictures, 2)
        for n in range(7):
            own = images[pictures * n : pictures * (n + 1), None, :dim]
            expected = F.cosine_similarity(own, texts[None, 2 * n : 2 * n + 2, :dim], dim=2)
            torch.testing.assert_close(scores[n], expected)
