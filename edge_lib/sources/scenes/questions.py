"""Questions about scenes: six basic kinds, and chains of one to four steps from digit to digit.

A chain starts at a digit that its description singles out and steps to the nearest digit in one of
four directions: "which digit is right of the digit below the red three?".

Answers are balanced within each kind: of many possible questions about a scene, the one whose
answer was given least so far is asked. So no kind can be answered well without looking.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edge_lib.sources.scenes.generate import random_scene
from edge_lib.sources.scenes.scene import COLOURS, DIGITS, SPLITS, Scene, Thing

BASIC = ("colour", "digit", "position", "count", "sum", "comparison")


SPOTS = (
    *("top-left", "top", "top-right"),
    *("left", "centre", "right"),
    *("bottom-left", "bottom", "bottom-right"),
)


STEPS = {"right of": (0, 1), "left of": (0, -1), "below": (1, 0), "above": (-1, 0)}


PLURALS = (
    "zeros",
    "ones",
    "twos",
    "threes",
    "fours",
    "fives",
    "sixes",
    "sevens",
    "eights",
    "nines",
)


TRIES = 12  # questions made for each that is asked


@dataclass(frozen=True)
class Question:
    """What is asked of a scene, its answer, and its kind: one of BASIC, or chain1, chain2, ..."""

    kind: str
    text: str
    answer: str


def ask(
    split: str, scenes: int, per_scene: int, max_objects: int, hops: int, seed: int
) -> Iterator[tuple[Scene, list[Question]]]:
    """Yield scenes of a split, each with `per_scene` questions, chains of up to `hops` steps.

    Kinds are asked in equal parts; a scene that has no question of a kind is asked another.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), 5])
    kinds = [*BASIC, *(f"chain{n}" for n in range(1, hops + 1))]
    asked = {kind: Counter() for kind in kinds}
    for _ in range(scenes):
        scene, chosen = random_scene(rng, 1, max_objects), {}
        while len(chosen) < per_scene:
            fewest = sorted(kinds, key=lambda kind: (asked[kind].total(), rng.random()))
            made = (_least_answered(kind, scene, rng, asked[kind], chosen) for kind in fewest)
            question = next(filter(None, made), None)
            if question is None:  # all that can be asked of so bare a scene was asked
                break
            asked[question.kind][question.answer] += 1
            chosen[question.text] = question
        yield scene, list(chosen.values())


def _least_answered(
    kind: str, scene: Scene, rng: np.random.Generator, given: Counter, chosen: dict
) -> Question | None:
    """A new question of this kind whose answer was given least so far; None if there is none."""
    maker = MAKERS.get(kind) or _chain(int(kind.removeprefix("chain")))
    made = filter(None, (maker(scene.things, rng) for _ in range(TRIES)))
    new = [Question(kind, *pair) for pair in made if pair[0] not in chosen]
    return min(new, key=lambda question: given[question.answer], default=None)


def _colour(things, rng) -> tuple[str, str] | None:
    thing = _any(things, rng)
    if _alone(things, digit=thing.digit) and rng.random() < 0.5:
        asked = ("what colour is the {}?", "which colour has the {}?")
        return _say(rng, asked, DIGITS[thing.digit]), thing.colour
    asked = ("what colour is the digit at the {}?", "which colour is at the {}?")
    return _say(rng, asked, SPOTS[thing.cell]), thing.colour


def _digit(things, rng) -> tuple[str, str] | None:
    thing = _any(things, rng)
    if rng.random() < 0.5:
        asked = ("which digit is at the {}?", "what number do you see at the {}?")
        return _say(rng, asked, SPOTS[thing.cell]), DIGITS[thing.digit]
    same = sorted((t for t in things if t.colour == thing.colour), key=lambda t: t.cell)
    if len(same) > 4:
        return None
    asked = ("name the {} digits in reading order", "which digits are {}, row by row?")
    return _say(rng, asked, thing.colour), " ".join(DIGITS[t.digit] for t in same)


def _position(things, rng) -> tuple[str, str] | None:
    thing = _any(things, rng)
    if not _alone(things, digit=thing.digit, colour=thing.colour):
        return None
    asked = ("where is the {} {}?", "in which place is the {} {}?")
    return _say(rng, asked, thing.colour, DIGITS[thing.digit]), SPOTS[thing.cell]


def _count(things, rng) -> tuple[str, str]:
    draw = rng.random()
    if draw < 0.2:
        asked = ("how many digits are there?", "how many numbers do you see?")
        return _say(rng, asked), DIGITS[len(things)]
    if draw < 0.6:
        colour = _colour_of(things, rng)
        asked = ("how many digits are {}?", "how many {} digits are there?")
        return _say(rng, asked, colour), DIGITS[sum(t.colour == colour for t in things)]
    digit = _any(things, rng).digit if rng.random() < 0.7 else int(rng.integers(10))
    asked = ("how many {} are there?", "how many {} do you see?")
    return _say(rng, asked, PLURALS[digit]), DIGITS[sum(t.digit == digit for t in things)]


def _sum(things, rng) -> tuple[str, str]:
    """Answered digit by digit, as it is written: "one seven"."""
    colour = _any(things, rng).colour
    asked = ("what do the {} digits add up to?", "what is the sum of the {} digits?")
    total = sum(t.digit for t in things if t.colour == colour)
    return _say(rng, asked, colour), " ".join(DIGITS[int(figure)] for figure in str(total))


def _comparison(things, rng) -> tuple[str, str] | None:
    colours = sorted({t.colour for t in things})
    if len(colours) < 2:
        return None
    one, other = (colours[i] for i in rng.permutation(len(colours))[:2])
    sums = [sum(t.digit for t in things if t.colour == colour) for colour in (one, other)]
    asked = (
        "are the {} digits together more than the {} ones?",
        "do the {} digits add up to more than the {} ones?",
    )
    return _say(rng, asked, one, other), "yes" if sums[0] > sums[1] else "no"


def _chain(hops: int) -> Callable:
    def make(things, rng) -> tuple[str, str] | None:
        here = _any(things, rng)
        if not _alone(things, digit=here.digit, colour=here.colour):
            return None
        text = f"the {here.colour} {DIGITS[here.digit]}"
        seen = {here.cell}
        for _ in range(hops):
            ways = [(way, there) for way in STEPS if (there := step(things, here, way))]
            ways = [(way, there) for way, there in ways if there.cell not in seen]
            if not ways:
                return None
            way, here = ways[int(rng.integers(len(ways)))]
            seen.add(here.cell)
            text = f"the digit {way} {text}"
        asked = ("which digit is {}?", "what number is {}?")
        return _say(rng, asked, text.removeprefix("the digit ")), DIGITS[here.digit]

    return make


MAKERS = {
    "colour": _colour,
    "digit": _digit,
    "position": _position,
    "count": _count,
    "sum": _sum,
    "comparison": _comparison,
}


def step(things: tuple[Thing, ...], here: Thing, way: str) -> Thing | None:
    """The nearest thing in a direction, in the same row or column; None if there is none."""
    down, right = STEPS[way]
    at = {thing.cell: thing for thing in things}
    row, column = here.cell // 3 + down, here.cell % 3 + right
    while 0 <= row < 3 and 0 <= column < 3:
        if thing := at.get(3 * row + column):
            return thing
        row, column = row + down, column + right
    return None


def _any(things, rng) -> Thing:
    return things[int(rng.integers(len(things)))]


def _colour_of(things, rng) -> str:
    """Mostly one that is there."""
    return _any(things, rng).colour if rng.random() < 0.8 else str(rng.choice(list(COLOURS)))


def _alone(things, **looks) -> bool:
    """Whether just one thing looks so."""
    return sum(all(getattr(t, k) == v for k, v in looks.items()) for t in things) == 1


def _say(rng, phrasings: tuple[str, ...], *words: str) -> str:
    return phrasings[int(rng.integers(len(phrasings)))].format(*words)
