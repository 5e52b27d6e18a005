"""Questions about scenes: right, answerable, balanced."""

import re
from collections import Counter, defaultdict

import pytest

from edge_lib.sources.scenes.question_kinds import CELL_NAMES, PLURALS, neighbour
from edge_lib.sources.scenes.questions import BASIC, generate_questions
from edge_lib.sources.scenes.scene import COLOURS, DIGITS, Scene, Thing


@pytest.fixture(scope="module")
def generated():
    """Scenes, each with its questions."""
    return list(generate_questions("test", 400, 8, 6, 4, seed=0))


def solve(scene: Scene, text: str) -> str:
    """The answer, worked out independently from the text of the question."""
    things = scene.things
    words = re.findall(r"[a-z-]+", text)
    colours = [word for word in words if word in COLOURS]
    digits = [DIGITS.index(word) for word in words if word in DIGITS]
    directions = re.findall(r"right of|left of|below|above", text)
    if directions:
        [thing] = [t for t in things if (t.colour, t.digit) == (colours[0], digits[0])]
        for direction in reversed(directions):
            column, row = thing.cell % 3, thing.cell // 3
            if direction.endswith("of"):
                line = [t for t in things if t.cell // 3 == row]
                distances = [
                    (t.cell % 3 - column) * (1 if direction == "right of" else -1) for t in line
                ]
            else:
                line = [t for t in things if t.cell % 3 == column]
                distances = [
                    (t.cell // 3 - row) * (1 if direction == "below" else -1) for t in line
                ]
            thing = line[min((d, i) for i, d in enumerate(distances) if d > 0)[1]]
        return DIGITS[thing.digit]
    if "more" in words:
        first, second = (sum(t.digit for t in things if t.colour == c) for c in colours)
        return "yes" if first > second else "no"
    if "add" in words or "sum" in words:
        total = sum(t.digit for t in things if t.colour == colours[0])
        return " ".join(DIGITS[int(figure)] for figure in str(total))
    if text.startswith("how many"):
        plurals = [PLURALS.index(word) for word in words if word in PLURALS]
        kept = [t for t in things if not colours or t.colour == colours[0]]
        return DIGITS[sum(not plurals or t.digit == plurals[0] for t in kept)]
    if "where" in words or "place" in words:
        [cell] = [t.cell for t in things if (t.colour, t.digit) == (colours[0], digits[0])]
        return CELL_NAMES[cell]
    if colours:  # "name the red digits", "which digits are red"
        kept = sorted((t.cell, t.digit) for t in things if t.colour == colours[0])
        return " ".join(DIGITS[digit] for _, digit in kept)
    if digits:
        [colour] = [t.colour for t in things if t.digit == digits[0]]
        return colour
    [thing] = [t for t in things if CELL_NAMES[t.cell] == words[-1]]
    return thing.colour if "colour" in words else DIGITS[thing.digit]


def test_answers_follow_from_question_and_scene(generated):
    for scene, questions in generated:
        for question in questions:
            assert solve(scene, question.text) == question.answer, question


def test_kinds_and_their_answers_are_balanced(generated):
    answers = defaultdict(Counter)
    for _, questions in generated:
        for question in questions:
            answers[question.kind][question.answer] += 1
    assert set(answers) == {*BASIC, "chain1", "chain2", "chain3", "chain4"}
    sizes = [count.total() for count in answers.values()]
    assert max(sizes) - min(sizes) <= 0.1 * max(sizes)
    for kind, values in {"colour": 8, "position": 9, "comparison": 2, "chain1": 10}.items():
        assert len(answers[kind]) == values
        assert max(answers[kind].values()) <= 1.1 * answers[kind].total() / values


def test_answers_have_one_to_four_words_and_questions_are_unique(generated):
    for _, questions in generated:
        assert len({question.text for question in questions}) == len(questions) == 8
        assert all(1 <= len(question.answer.split()) <= 4 for question in questions)


def test_chains_are_as_long_as_configured(generated):
    assert {q.kind for _, qs in generate_questions("train", 50, 8, 6, 2, 0) for q in qs} == {
        *BASIC,
        "chain1",
        "chain2",
    }
    longest = [q for _, questions in generated for q in questions if q.kind == "chain4"]
    assert all(len(re.findall("right of|left of|below|above", q.text)) == 4 for q in longest)


def test_questions_depend_on_seed_and_split_only():
    first = [questions for _, questions in generate_questions("train", 20, 8, 6, 2, 0)]
    assert first == [questions for _, questions in generate_questions("train", 20, 8, 6, 2, 0)]
    assert first != [questions for _, questions in generate_questions("val", 20, 8, 6, 2, 0)]


def test_scene_of_few_digits_has_fewer_questions():
    generated = list(generate_questions("train", 30, 200, 2, 2, 0))
    assert all(0 < len(questions) < 200 for _, questions in generated)


@pytest.mark.parametrize(
    ("direction", "cell"), [("right of", 5), ("left of", None), ("below", 6), ("above", 0)]
)
def test_neighbour_is_the_nearest_digit_in_row_or_column(direction, cell):
    """Digits at 0, 3, 5, 6, 8; the neighbours of 3, on the left."""
    things = tuple(Thing(1, "red", True, cell, 0) for cell in (0, 3, 5, 6, 8))
    nearest = neighbour(things, things[1], direction)
    assert (nearest and nearest.cell) == cell
