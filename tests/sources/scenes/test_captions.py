"""Captions read back: digits, colours and places that they name."""

import pandas as pd
import pytest

from edge_lib.sources.scenes.captions import (
    caption_accuracy,
    count_caption_errors,
    is_right,
    parse_things,
)
from edge_lib.sources.scenes.generate import random_scenes
from edge_lib.sources.scenes.scene import Scene


@pytest.mark.parametrize("phrasing", [0, 1, 2])
def test_parse_things_reads_every_phrasing(phrasing):
    for scene in random_scenes("test", 200, 9, 0):
        caption = Scene(scene.things, phrasing).caption()
        assert parse_things(caption) == {(t.digit, t.colour, t.cell) for t in scene.things}


def test_caption_accuracy_counts_things_not_words():
    scored = pd.DataFrame(
        {
            "reference": ["a large red three at the top and a small blue one on the left"] * 2,
            "answer": [
                "on the left a big blue 1 and at the top left a little red 3, a red",
                "a large red three at the top",
            ],
        }
    )
    accuracy = {"recall": 2 / 4, "precision": 2 / 3, "things": 4, "named": 3}
    assert caption_accuracy(scored) == accuracy
    assert caption_accuracy(scored.assign(reference="a cat and a dog")) == {}
    # a three in another place is omitted and invented
    assert count_caption_errors(scored).tolist() == [2, 1]


def test_is_right_accepts_captions_in_any_order_but_answers_only_as_they_are():
    pairs = [
        ("a large red three at the top and a small blue one on the left",) * 2,
        (
            "a large red three at the top and a small blue one on the left",
            "on the left a little blue 1, at the top a big red 3",
        ),
        ("a large red three at the top", "a large red three at the top left"),
        ("a large red three at the top", ""),
        ("seven", "seven"),
        ("seven", "one"),
    ]
    scored = pd.DataFrame(pairs, columns=["reference", "answer"])
    scored["em"] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert is_right(scored).tolist() == [True, True, False, False, True, False]
