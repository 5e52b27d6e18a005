"""Generic questions: each is about the image of its own row, whatever the ids."""

import numpy as np
import pytest
from datasets import Dataset

from edge_lib.data.table import Table
from edge_lib.sources.caption_questions import QUESTIONS, caption_questions


@pytest.mark.parametrize(
    "ids",
    [["a", "a", "a"], [None, None, None], ["1", None, "0"], [7, 8, 7]],
    ids=["equal", "null", "numbers of others", "integers"],
)
@pytest.mark.parametrize("image_ids", [None, ["x", "x", "x"]], ids=["own", "one name"])
def test_questions_show_the_image_of_their_row(encode_image, ids, image_ids):
    columns = {
        "id": ids,
        "image": [encode_image(seed) for seed in range(3)],
        "texts": ["red", "blue", "green"],
    }
    columns |= {"image_id": image_ids} if image_ids else {}
    table = caption_questions(Table(Dataset.from_dict(columns), "small", "f"))
    assert table.questions.texts == [text for text in QUESTIONS for _ in range(3)]
    assert table.questions.answers == [["red"], ["blue"], ["green"]] * 2
    assert table.image_index.tolist() == [0, 1, 2] * 2
    for seed, image in enumerate(table.images(table.image_rows)):
        expected = Table(Dataset.from_dict({"image": [encode_image(seed)]}), "one", "f").images([0])
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected[0]))


def test_questions_about_a_table_without_images_are_about_none():
    table = caption_questions(Table(Dataset.from_dict({"texts": ["a", "b"]}), "small", "f"))
    assert len(table.questions.texts) == 4
    assert not table.has("image").any()
