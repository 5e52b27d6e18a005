"""Answer scores, against the official rules and torchmetrics."""

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


@pytest.mark.parametrize(
    ("answer", "references"), PAIRS, ids=[answer or "empty" for answer, _ in PAIRS]
)
def test_em_and_f1_match_torchmetrics_squad(answer, references):
    prediction = {"prediction_text": answer, "id": "1"}
    target = {"answers": {"answer_start": [0] * len(references), "text": references}, "id": "1"}
    expected = squad([prediction], [target])
    assert 100 * exact_match(answer, references) == pytest.approx(float(expected["exact_match"]))
    assert 100 * token_f1(answer, references) == pytest.approx(float(expected["f1"]))


def test_f1_ignores_word_order_and_em_ignores_signs():
    assert token_f1("two three", ["three two"]) == 1
    assert exact_match("two three", ["three two"]) == 0
    assert exact_match("-2", ["2"]) == 1  # the sign is punctuation


@pytest.mark.parametrize(
    ("matching", "tenths"), [(0, 0), (1, 3), (2, 6), (3, 9), (4, 10), (10, 10)]
)
def test_vqa_accuracy_of_ten_references(matching, tenths):
    """By hand: of n matching references, n - 1 remain when one of them is left out, else n."""
    references = ["red"] * matching + ["blue"] * (10 - matching)
    assert vqa_accuracy("red", references) == pytest.approx(tenths / 10)


def test_vqa_accuracy_normalises_like_the_official_script():
    """Answers are always normalised; references lose only punctuation, and only if they differ."""
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
        ("a-b c;-d", "b c d"),  # spaces are looked up in the original text
        ("what's  up\n", "what's up"),
    ],
)
def test_vqa_normalise_matches_the_official_script(text, expected):
    assert vqa_normalise(text) == expected


def test_by_kind_averages_kinds_and_sets():
    answers, references = ["one", "two", "x", "yes"], [["one"], ["three"], ["x"], ["no", "yes"]]
    scored = score_answers(answers, references, ["sum", "sum", "count", "count"], range(4))
    groups = np.array([0, 0, 1, 1])
    table = by_kind(scored, groups, {"all": ["sum", "count"]}, bootstrap=200)
    table = table.set_index(["kind", "measure"])
    assert table.value["sum", "em"] == 0.5
    assert table.value["count", "em"] == 1
    assert table.value["all", "em"] == 0.75
    assert table.questions["all", "em"] == 4
    assert table.low["all", "em"] == 0.5  # both draws pick the group with one error
    assert table.high["all", "em"] == 1
    assert table.questions["count", "vqa"] == 1  # only one question has several references


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        ("\U0001f600", "\U0001f600", ""),
        ("...", "...", ""),
        ("?!", "?!", "..."),
        ("a", "A", ""),
        ("the", "the", "a"),
        ("+", "+", "-"),
        ("一只狗", "一只狗", ""),
    ],
    ids=["emoji", "full stops", "marks", "the letter a", "article", "sign", "CJK"],
)
def test_references_without_a_word_are_compared_as_they_are(reference, right, wrong):
    for measure in (exact_match, token_f1):
        assert measure(right, [reference]) == 1
        assert measure(wrong, [reference]) == 0


@pytest.mark.parametrize(
    "references",
    [[], [""], [" \n"], [None], ["", None]],
    ids=["none", "empty", "blank", "null", "both"],
)
def test_questions_without_a_reference_are_not_counted(references):
    scored = score_answers(["", "yes"], [references, ["yes"]], ["x", "x"], range(2))
    assert scored.em.isna().tolist() == [True, False]
    assert scored.reference.tolist() == ["", "yes"]
    table = by_kind(scored, np.arange(2), {}, bootstrap=10).set_index("measure")
    assert table.value.to_dict() == {"em": 1, "f1": 1}
    assert set(table.questions) == {1}


def test_very_long_and_equal_answers_are_scored():
    long = "word " * 20_000
    scored = score_answers([long] * 3, [[long]] * 3, ["x"] * 3, range(3))
    assert scored.em.tolist() == scored.f1.tolist() == [1, 1, 1]
