"""Questions about scenes: true, answerable, balanced."""

import re
from collections import Counter, defaultdict

import pytest

from edge_lib.sources.scenes.questions import BASIC, PLURALS, SPOTS, ask, step
from edge_lib.sources.scenes.scene import COLOURS, DIGITS, Scene, Thing


@pytest.fixture(scope="module")
def asked():
    return list(ask("test", 400, 8, 6, 4, seed=0))


def read(scene: Scene, text: str) -> str:
    """The answer, found anew from the words of the question alone."""
    things = scene.things
    words = re.findall(r"[a-z-]+", text)
    colours = [word for word in words if word in COLOURS]
    digits = [DIGITS.index(word) for word in words if word in DIGITS]
    ways = re.findall(r"right of|left of|below|above", text)
    if ways:
        [here] = [t for t in things if (t.colour, t.digit) == (colours[0], digits[0])]
        for way in reversed(ways):
            column, row = here.cell % 3, here.cell // 3
            if way.endswith("of"):
                line = [t for t in things if t.cell // 3 == row]
                far = [(t.cell % 3 - column) * (1 if way == "right of" else -1) for t in line]
            else:
                line = [t for t in things if t.cell % 3 == column]
                far = [(t.cell // 3 - row) * (1 if way == "below" else -1) for t in line]
            here = line[min((d, i) for i, d in enumerate(far) if d > 0)[1]]
        return DIGITS[here.digit]
    if "more" in words:
        one, other = (sum(t.digit for t in things if t.colour == c) for c in colours)
        return "yes" if one > other else "no"
    if "add" in words or "sum" in words:
        total = sum(t.digit for t in things if t.colour == colours[0])
        return " ".join(DIGITS[int(figure)] for figure in str(total))
    if text.startswith("how many"):
        plurals = [PLURALS.index(word) for word in words if word in PLURALS]
        kept = [t for t in things if not colours or t.colour == colours[0]]
        return DIGITS[sum(not plurals or t.digit == plurals[0] for t in kept)]
    if "where" in words or "place" in words:
        [cell] = [t.cell for t in things if (t.colour, t.digit) == (colours[0], digits[0])]
        return SPOTS[cell]
    if colours:  # name the red digits, which digits are red
        kept = sorted((t.cell, t.digit) for t in things if t.colour == colours[0])
        return " ".join(DIGITS[digit] for _, digit in kept)
    if digits:
        [colour] = [t.colour for t in things if t.digit == digits[0]]
        return colour
    [thing] = [t for t in things if SPOTS[t.cell] == words[-1]]
    return thing.colour if "colour" in words else DIGITS[thing.digit]


def test_every_answer_follows_from_the_question_and_the_scene(asked):
    for scene, questions in asked:
        for question in questions:
            assert read(scene, question.text) == question.answer, question


def test_every_kind_is_asked_alike_and_its_answers_are_balanced(asked):
    answers = defaultdict(Counter)
    for _, questions in asked:
        for question in questions:
            answers[question.kind][question.answer] += 1
    assert set(answers) == {*BASIC, "chain1", "chain2", "chain3", "chain4"}
    sizes = [count.total() for count in answers.values()]
    assert max(sizes) - min(sizes) <= 0.1 * max(sizes)
    for kind, values in {"colour": 8, "position": 9, "comparison": 2, "chain1": 10}.items():
        assert len(answers[kind]) == values
        assert max(answers[kind].values()) <= 1.1 * answers[kind].total() / values


def test_answers_are_of_one_to_four_words_and_no_question_is_asked_twice(asked):
    for _, questions in asked:
        assert len({question.text for question in questions}) == len(questions) == 8
        assert all(1 <= len(question.answer.split()) <= 4 for question in questions)


def test_chains_are_as_long_as_allowed(asked):
    assert {q.kind for _, qs in ask("train", 50, 8, 6, 2, 0) for q in qs} == {
        *BASIC,
        "chain1",
        "chain2",
    }
    longest = [q for _, questions in asked for q in questions if q.kind == "chain4"]
    assert all(len(re.findall("right of|left of|below|above", q.text)) == 4 for q in longest)


def test_same_seed_same_questions_and_other_splits_differ():
    first = [questions for _, questions in ask("train", 20, 8, 6, 2, 0)]
    assert first == [questions for _, questions in ask("train", 20, 8, 6, 2, 0)]
    assert first != [questions for _, questions in ask("val", 20, 8, 6, 2, 0)]


def test_a_bare_scene_is_asked_what_can_be_asked():
    asked = list(ask("train", 30, 200, 2, 2, 0))
    assert all(0 < len(questions) < 200 for _, questions in asked)


@pytest.mark.parametrize(
    ("way", "cell"), [("right of", 5), ("left of", None), ("below", 6), ("above", 0)]
)
def test_a_step_goes_to_the_nearest_in_the_row_or_column(way, cell):
    """By hand: digits at 0, 3, 5, 6, 8; from 3, on the left."""
    things = tuple(Thing(1, "red", True, cell, 0) for cell in (0, 3, 5, 6, 8))
    found = step(things, things[1], way)
    assert (found and found.cell) == cell
