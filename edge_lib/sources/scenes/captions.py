"""Parse captions of scenes: which of a scene's digits does a generated caption get right?"""

import re

import numpy as np
import pandas as pd

from edge_lib.sources.scenes.scene import COLOURS, DIGITS, PLACES


def parse_things(caption: str) -> set[tuple[int, str, int]]:
    """Digit, colour and cell of each thing that a caption of a scene names, in any phrasing."""
    phrases = re.split(r",\s*|\s+and\s+", caption)
    return {thing for phrase in phrases if (thing := _parse_phrase(phrase))}


def caption_accuracy(scored: pd.DataFrame) -> dict[str, float]:
    """Accuracy of generated captions (a `generate_answers` table) about the things in the scenes.

    Recall: the share of things that captions name with the right digit, colour and place.
    Precision: the share of named things that are in the scene. Also both counts, `things` and
    `named`. Empty if the references are not captions of scenes.
    """
    pairs = _parse_pairs(scored)
    right = sum(len(things & named) for things, named in pairs)
    num_things, num_named = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    if not num_things:
        return {}
    shares = {"recall": right / num_things, "precision": right / max(num_named, 1)}
    return shares | {"things": num_things, "named": num_named}


def count_caption_errors(scored: pd.DataFrame) -> np.ndarray:
    """(N,) number of things that each caption of a `generate_answers` table omits or invents."""
    return np.array([len(things ^ named) for things, named in _parse_pairs(scored)])


def is_right(scored: pd.DataFrame) -> np.ndarray:
    """(N,) whether each answer is an exact match or, as a caption, names the same things."""
    same = [bool(things) and things == named for things, named in _parse_pairs(scored)]
    return (scored.em == 1).to_numpy() | np.array(same, dtype=bool)


def _parse_pairs(scored: pd.DataFrame) -> list[tuple[set, set]]:
    """The things in each reference, and those in the generated caption."""
    pairs = zip(scored.reference, scored.answer, strict=True)
    return [(parse_things(reference), parse_things(answer)) for reference, answer in pairs]


def _parse_phrase(phrase: str) -> tuple[int, str, int] | None:
    """None unless the phrase names exactly one digit and one colour, and a place."""
    words = phrase.split()
    digits = [n for n, name in enumerate(DIGITS) if name in words or str(n) in words]
    colours = [colour for colour in COLOURS if colour in words]
    cells = [cell for cell, place in enumerate(PLACES) if place in phrase]
    if len(digits) != 1 or len(colours) != 1 or not cells:
        return None
    # the longest: "at the top left" contains "at the top"
    return digits[0], colours[0], max(cells, key=lambda cell: len(PLACES[cell]))
