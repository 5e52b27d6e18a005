"""One function per kind of question about a scene: (things, rng) -> (question, answer).

A function returns None if the kind does not apply to the digit that it drew.
"""

from collections.abc import Callable, Sequence

import numpy as np

from edge_lib.sources.scenes.scene import COLOURS, DIGITS, Thing

CELL_NAMES = (
    *("top-left", "top", "top-right"),
    *("left", "centre", "right"),
    *("bottom-left", "bottom", "bottom-right"),
)
DIRECTIONS = {"right of": (0, 1), "left of": (0, -1), "below": (1, 0), "above": (-1, 0)}
PLURALS = (
    *("zeros", "ones", "twos", "threes", "fours"),
    *("fives", "sixes", "sevens", "eights", "nines"),
)

Things = Sequence[Thing]
Pair = tuple[str, str]  # question and answer


def colour(things: Things, rng: np.random.Generator) -> Pair:
    thing = _pick(things, rng)
    if _is_unique(things, digit=thing.digit) and rng.random() < 0.5:
        templates = ("what colour is the {}?", "which colour has the {}?")
        return _fill(rng, templates, DIGITS[thing.digit]), thing.colour
    templates = ("what colour is the digit at the {}?", "which colour is at the {}?")
    return _fill(rng, templates, CELL_NAMES[thing.cell]), thing.colour


def digit(things: Things, rng: np.random.Generator) -> Pair | None:
    thing = _pick(things, rng)
    if rng.random() < 0.5:
        templates = ("which digit is at the {}?", "what number do you see at the {}?")
        return _fill(rng, templates, CELL_NAMES[thing.cell]), DIGITS[thing.digit]
    same = sorted((t for t in things if t.colour == thing.colour), key=lambda t: t.cell)
    if len(same) > 4:
        return None
    templates = ("name the {} digits in reading order", "which digits are {}, row by row?")
    return _fill(rng, templates, thing.colour), " ".join(DIGITS[t.digit] for t in same)


def position(things: Things, rng: np.random.Generator) -> Pair | None:
    thing = _pick(things, rng)
    if not _is_unique(things, digit=thing.digit, colour=thing.colour):
        return None
    templates = ("where is the {} {}?", "in which place is the {} {}?")
    return _fill(rng, templates, thing.colour, DIGITS[thing.digit]), CELL_NAMES[thing.cell]


def count(things: Things, rng: np.random.Generator) -> Pair:
    draw = rng.random()
    if draw < 0.2:
        templates = ("how many digits are there?", "how many numbers do you see?")
        return _fill(rng, templates), DIGITS[len(things)]
    if draw < 0.6:
        # in most cases one that is in the scene
        name = _pick(things, rng).colour if rng.random() < 0.8 else str(rng.choice(list(COLOURS)))
        templates = ("how many digits are {}?", "how many {} digits are there?")
        return _fill(rng, templates, name), DIGITS[sum(t.colour == name for t in things)]
    value = _pick(things, rng).digit if rng.random() < 0.7 else int(rng.integers(10))
    templates = ("how many {} are there?", "how many {} do you see?")
    return _fill(rng, templates, PLURALS[value]), DIGITS[sum(t.digit == value for t in things)]


def total(things: Things, rng: np.random.Generator) -> Pair:
    """The answer is spelled figure by figure: "one seven" for 17."""
    name = _pick(things, rng).colour
    templates = ("what do the {} digits add up to?", "what is the sum of the {} digits?")
    figures = str(_sum_of(things, name))
    return _fill(rng, templates, name), " ".join(DIGITS[int(figure)] for figure in figures)


def comparison(things: Things, rng: np.random.Generator) -> Pair | None:
    colours = sorted({t.colour for t in things})
    if len(colours) < 2:
        return None
    first, second = (colours[i] for i in rng.permutation(len(colours))[:2])
    templates = (
        "are the {} digits together more than the {} ones?",
        "do the {} digits add up to more than the {} ones?",
    )
    answer = "yes" if _sum_of(things, first) > _sum_of(things, second) else "no"
    return _fill(rng, templates, first, second), answer


def chain(hops: int) -> Callable[[Things, np.random.Generator], Pair | None]:
    """The kind that starts at a digit and moves `hops` times to a neighbour, never back."""

    def make(things: Things, rng: np.random.Generator) -> Pair | None:
        thing = _pick(things, rng)
        if not _is_unique(things, digit=thing.digit, colour=thing.colour):
            return None
        text = f"the {thing.colour} {DIGITS[thing.digit]}"
        visited = {thing.cell}
        for _ in range(hops):
            moves = [(name, neighbour(things, thing, name)) for name in DIRECTIONS]
            moves = [(name, end) for name, end in moves if end and end.cell not in visited]
            if not moves:
                return None
            direction, thing = moves[int(rng.integers(len(moves)))]
            visited.add(thing.cell)
            text = f"the digit {direction} {text}"
        templates = ("which digit is {}?", "what number is {}?")
        return _fill(rng, templates, text.removeprefix("the digit ")), DIGITS[thing.digit]

    return make


BASIC_KINDS = {
    "colour": colour,
    "digit": digit,
    "position": position,
    "count": count,
    "sum": total,
    "comparison": comparison,
}


def neighbour(things: Things, thing: Thing, direction: str) -> Thing | None:
    """The nearest digit in a direction, in the same row or column; None if no digit is there."""
    down, right = DIRECTIONS[direction]
    by_cell = {thing.cell: thing for thing in things}
    row, column = thing.cell // 3 + down, thing.cell % 3 + right
    while 0 <= row < 3 and 0 <= column < 3:
        if nearest := by_cell.get(3 * row + column):
            return nearest
        row, column = row + down, column + right
    return None


def _pick(things: Things, rng: np.random.Generator) -> Thing:
    return things[int(rng.integers(len(things)))]


def _is_unique(things: Things, **attributes) -> bool:
    """Whether exactly one digit of the scene has these attributes."""
    return sum(all(getattr(t, k) == v for k, v in attributes.items()) for t in things) == 1


def _sum_of(things: Things, name: str) -> int:
    return sum(t.digit for t in things if t.colour == name)


def _fill(rng: np.random.Generator, templates: tuple[str, ...], *words: str) -> str:
    return templates[int(rng.integers(len(templates)))].format(*words)
