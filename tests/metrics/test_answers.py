"""Scores of answers, against official cases and another implementation."""

import numpy as np
import pytest
from torchmetrics.functional.text import squad

from edge_lib.metrics.answers import (
    by_kind,
    exact_match,
    score_answers,
    token_f1,
    vqa_accuracy,
    vqa_normalise,
)

PAIRS = [
    ("the Red cat.", ["red cat"]),
    ("two three", ["three two"]),
    ("a cat sat", ["the cat", "a dog sat"]),
    ("", ["nothing"]),
    ("yes!", ["no", "Yes"]),
    ("two two", ["two"]),
    ("-2.5", ["25"]),
]


@pytest.mark.parametrize(("answer", "references"), PAIRS)
def test_like_torchmetrics_squad(answer, references):
    asked = {"prediction_text": answer, "id": "1"}
    wanted = {"answers": {"answer_start": [0] * len(references), "text": references}, "id": "1"}
    theirs = squad([asked], [wanted])
    assert 100 * exact_match(answer, references) == pytest.approx(float(theirs["exact_match"]))
    assert 100 * token_f1(answer, references) == pytest.approx(float(theirs["f1"]))


def test_what_the_bag_of_tokens_hides():
    assert token_f1("two three", ["three two"]) == 1
    assert exact_match("two three", ["three two"]) == 0
    assert exact_match("-2", ["2"]) == 1  # the sign is punctuation


@pytest.mark.parametrize(
    ("agreeing", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
)
def test_vqa_accuracy_of_ten_references(agreeing, expected):
    """By hand: leaving out one that agrees leaves agreeing - 1 to agree, and so on, over three."""
    references = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert vqa_accuracy("red", references) == pytest.approx(expected)


def test_vqa_accuracy_normalises_as_the_official_script():
    """The answer always; of the references the punctuation alone, and only where they differ."""
    references = ["2"] * 5 + ["two"] * 3 + ["a pair", "3"]
    assert vqa_accuracy("Two", references) == 1
    assert vqa_accuracy("a pair", ["pair"] * 4 + ["a pair"] * 6) == 1
    assert vqa_accuracy("The dog", ["dog"] * 10) == 1
    assert vqa_accuracy("two", ["two"] * 10) == 0
    assert vqa_accuracy("black/white", ["black/white"] * 9 + ["grey"]) == 1
    assert vqa_accuracy("black/white", ["black/white"] * 10) == 0
    with pytest.raises(ValueError, match="several references"):
        vqa_accuracy("red", ["red"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dog", "dog"),
        ("dont", "don't"),
        ("ten", "10"),
        ("none", "0"),
        ("1,000", "1000"),
        ("black/white", "black white"),
        ("yes, it is!", "yes it is"),
        ("3.5 m.", "3.5 m"),
        ("2.", "2"),
        ("a-b c;-d", "b c d"),  # each mark's neighbours are those of the text as given
        ("what's  up\n", "what's up"),
    ],
)
def test_vqa_normalisation(text, expected):
    assert vqa_normalise(text) == expected


def test_scores_by_kind_and_set():
    answers, references = ["one", "two", "x", "yes"], [["one"], ["three"], ["x"], ["no", "yes"]]
    scored = score_answers(answers, references, ["sum", "sum", "count", "count"], range(4))
    groups = np.array([0, 0, 1, 1])
    table = by_kind(scored, groups, {"all": ["sum", "count"]}, bootstrap=200)
    table = table.set_index(["kind", "measure"])
    assert table.value["sum", "em"] == 0.5
    assert table.value["count", "em"] == 1
    assert table.value["all", "em"] == 0.75
    assert table.questions["all", "em"] == 4
    assert table.low["all", "em"] == 0.5  # both draws of the group that has one wrong
    assert table.high["all", "em"] == 1
    assert table.questions["count", "vqa"] == 1  # one question has several references
