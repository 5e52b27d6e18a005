"""Questions about scenes: six basic kinds, and chains of one to four steps from digit to digit.

A chain starts at a digit described by colour and value, and steps to the nearest digit in one of
four directions: "which digit is right of the digit below the red three?".

Answers are balanced within each kind: of several candidate questions about a scene, the one whose
answer is the least frequent so far is kept. No kind can be answered well without the image.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edge_lib.sources.scenes.generate import random_scene
from edge_lib.sources.scenes.question_kinds import BASIC_KINDS, chain
from edge_lib.sources.scenes.scene import SPLITS, Scene

BASIC = tuple(BASIC_KINDS)
NUM_CANDIDATES = 12  # drawn for each question


@dataclass(frozen=True)
class Question:
    """A question about a scene. kind: one of BASIC, or chain1, chain2, ..."""

    kind: str
    text: str
    answer: str


def generate_questions(
    split: str, num_scenes: int, per_scene: int, max_objects: int, hops: int, seed: int
) -> Iterator[tuple[Scene, list[Question]]]:
    """Yield scenes of a split, each with `per_scene` questions, chains of up to `hops` steps.

    All kinds are equally frequent; where a kind does not apply to a scene, another one takes its
    place. A scene of few digits may have fewer questions.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), 5])
    kinds = [*BASIC, *(f"chain{n}" for n in range(1, hops + 1))]
    answers = {kind: Counter() for kind in kinds}  # frequency of each answer so far
    for _ in range(num_scenes):
        scene, chosen = random_scene(rng, 1, max_objects), {}
        while len(chosen) < per_scene:
            rarest_first = sorted(kinds, key=lambda kind: (answers[kind].total(), rng.random()))
            drawn = (_draw(kind, scene, rng, answers[kind], chosen) for kind in rarest_first)
            question = next(filter(None, drawn), None)
            if question is None:
                break
            answers[question.kind][question.answer] += 1
            chosen[question.text] = question
        yield scene, list(chosen.values())


def _draw(
    kind: str, scene: Scene, rng: np.random.Generator, answers: Counter, chosen: dict
) -> Question | None:
    """A question of this kind that is not yet chosen, with the least frequent answer of several
    candidates; None if no candidate is new.
    """
    make = BASIC_KINDS.get(kind) or chain(int(kind.removeprefix("chain")))
    pairs = filter(None, (make(scene.things, rng) for _ in range(NUM_CANDIDATES)))
    new = [Question(kind, *pair) for pair in pairs if pair[0] not in chosen]
    return min(new, key=lambda question: answers[question.answer], default=None)
