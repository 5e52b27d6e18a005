"""Scenes: handwritten digits, coloured and placed on a 3x3 grid, with captions that describe them.

The default data set: real handwriting (scikit-learn's `load_digits`, the UCI optical digits of
Alpaydin & Kaynak 1998), made in seconds, offline, the same bytes from the same seed.

Three properties make recall on it mean something:
* a split's writers appear in no other split;
* no two rows of a split describe the same scene, so each query has one right answer;
* rows come in groups of four *minimal-edit twins* (the scene; one digit changed; one colour
  changed; one digit moved), so a retriever that misses a single detail misses the row.

The swap probe holds pairs whose two digits exchanged places: the captions have the same words and
only their binding differs (after Winoground, Thrush et al. 2022).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (235, 45, 45),
    "green": (50, 190, 70),
    "blue": (60, 105, 255),
    "yellow": (245, 225, 50),
    "purple": (175, 70, 215),
    "orange": (250, 140, 30),
    "white": (240, 240, 240),
    "cyan": (60, 220, 225),
}
PLACES = (
    "at the top left",
    "at the top",
    "at the top right",
    "on the left",
    "in the centre",
    "on the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
CELL = 32  # pixels; an image is 3 x 3 cells
SIZE = 3 * CELL
JITTER = 4  # pixels
SPLITS = ("train", "val", "test", "swap")
EDITS = ("scene", "digit changed", "colour changed", "digit moved")

# load_digits keeps each writer's digits together: every writer starts with 0..9 three times over,
# and those runs tell where the next one begins. Every fifth writer is kept for test, and for val.
STARTS = (0, 130, 256, 386, 516, 646, 776, 905, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
WRITERS = {"train": (0, 1, 3, 5, 6, 8, 10, 11, 13), "val": (4, 9), "test": (2, 7, 12)}


@dataclass(frozen=True)
class Thing:
    """One handwritten digit of a scene. `glyph` seeds its handwriting, jitter and tint."""

    digit: int
    colour: str
    large: bool
    cell: int
    glyph: int

    @property
    def looks(self) -> tuple:
        """What a caption can tell of it."""
        return self.digit, self.colour, self.large, self.cell


@dataclass(frozen=True)
class Scene:
    """Digits in the order the caption names them, and the caption's phrasing."""

    things: tuple[Thing, ...]
    phrasing: int

    @property
    def content(self) -> frozenset:
        return frozenset(thing.looks for thing in self.things)

    def phrases(self) -> list[str]:
        """One for each thing, in order."""
        return [PHRASINGS[self.phrasing](thing) for thing in self.things]

    def caption(self) -> str:
        *others, last = self.phrases()
        return ", ".join(others) + " and " + last if others else last

    def captions(self, count: int) -> list[str]:
        """The caption, and the same said in the phrasings that follow."""
        phrasings = ((self.phrasing + i) % len(PHRASINGS) for i in range(count))
        return [replace(self, phrasing=phrasing).caption() for phrasing in phrasings]


def _plain(t: Thing) -> str:
    return f"a {'large' if t.large else 'small'} {t.colour} {DIGITS[t.digit]} {PLACES[t.cell]}"


def _place_first(t: Thing) -> str:
    return f"{PLACES[t.cell]} a {'large' if t.large else 'small'} {t.colour} {DIGITS[t.digit]}"


def _numerals(t: Thing) -> str:
    return f"a {'big' if t.large else 'little'} {t.colour} {t.digit} {PLACES[t.cell]}"


PHRASINGS = (_plain, _place_first, _numerals)


def twin_groups(split: str, size: int, max_objects: int, seed: int) -> Iterator[list[Scene]]:
    """Yield groups of four twins (in the order of `EDITS`), `size` scenes in all, none twice."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    seen = set()
    made = rejected = 0
    while made < size:
        group = _twins(rng, random_scene(rng, 1, max_objects))
        contents = {scene.content for scene in group}
        if len(contents) < len(group) or contents & seen:
            rejected += 1
            if rejected > 10 * size + 1000:
                raise ValueError(f"only {made} different scenes found, not {size}")
            continue
        seen |= contents
        yield group[: size - made]
        made += len(group)


def swap_pairs(size: int, max_objects: int, seed: int) -> Iterator[list[Scene]]:
    """Yield pairs of scenes that differ only in which of two digits stands where."""
    rng = np.random.default_rng([seed, SPLITS.index("swap")])
    seen = set()
    while len(seen) < size:
        scene = random_scene(rng, 2, max(2, max_objects))
        first, second, *rest = scene.things
        swapped = replace(first, cell=second.cell), replace(second, cell=first.cell)
        pair = [scene, replace(scene, things=(*swapped, *rest))]
        key = frozenset(scene.content for scene in pair)
        if len(key) == 2 and key not in seen:
            seen.add(key)
            yield pair


def random_scenes(split: str, size: int, max_objects: int, seed: int) -> Iterator[Scene]:
    """Yield unrelated, well filled scenes, as for training a backbone."""
    rng = np.random.default_rng([seed, SPLITS.index(split), 1])
    for _ in range(size):
        yield random_scene(rng, max(1, max_objects // 2), max_objects)


def render(scene: Scene, split: str) -> Image.Image:
    """Draw the scene with `split`'s writers: an RGB image of 96 x 96 pixels."""
    background = 12 + scene.things[0].glyph % 24
    canvas = np.full((SIZE, SIZE, 3), background, np.float32)
    for thing in scene.things:
        _draw(canvas, thing, split)
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))


def labels(scene: Scene) -> np.ndarray:
    """(9, 3) per cell: digit, colour, size; -1 where the cell is empty."""
    table = np.full((9, 3), -1)
    colours = list(COLOURS)
    for t in scene.things:
        table[t.cell] = t.digit, colours.index(t.colour), int(t.large)
    return table


def random_scene(rng: np.random.Generator, fewest: int, most: int) -> Scene:
    """One of `fewest` to `most` digits."""
    # few scenes have a single digit: there are only 1,440 different ones
    counts = np.arange(fewest, most + 1)
    odds = np.where(counts == 1, 0.2, 1.0)
    count = int(rng.choice(counts, p=odds / odds.sum()))
    cells = rng.permutation(9)[:count]
    things = tuple(
        Thing(
            digit=int(rng.integers(10)),
            colour=str(rng.choice(list(COLOURS))),
            large=bool(rng.integers(2)),
            cell=int(cell),
            glyph=int(rng.integers(2**31)),
        )
        for cell in cells
    )
    return Scene(things, phrasing=int(rng.integers(len(PHRASINGS))))


def _twins(rng, scene: Scene) -> list[Scene]:
    def edited(**change) -> Scene:
        which = int(rng.integers(len(scene.things)))
        things = list(scene.things)
        things[which] = replace(things[which], **{k: v(things[which]) for k, v in change.items()})
        return replace(scene, things=tuple(things))

    taken = {thing.cell for thing in scene.things}
    free = [cell for cell in range(9) if cell not in taken]
    twins = [
        scene,
        edited(digit=lambda t: (t.digit + int(rng.integers(1, 10))) % 10),
        edited(colour=lambda t: str(rng.choice([c for c in COLOURS if c != t.colour]))),
    ]
    if free:
        twins.append(edited(cell=lambda t: int(rng.choice(free))))
    return twins


def _draw(canvas: np.ndarray, thing: Thing, split: str) -> None:
    """Paint one digit into its cell: slanted, turned, off-centre, in a tint of its colour."""
    rng = np.random.default_rng(thing.glyph)
    height = int(rng.integers(24, 29) if thing.large else rng.integers(14, 18))
    width = round(height * rng.uniform(0.75, 1.0))
    candidates = _glyphs(split)[thing.digit]
    glyph = Image.fromarray(candidates[int(rng.integers(len(candidates)))])
    glyph = glyph.resize((width, height), Image.Resampling.BICUBIC)
    slant = rng.uniform(-0.2, 0.2)  # horizontal shift per row, about the middle row
    shear = (1, slant, -slant * height / 2, 0, 1, 0)
    glyph = glyph.transform(glyph.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    glyph = glyph.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
    ink = np.asarray(glyph, np.float32)[..., None] / 255
    tint = np.array(COLOURS[thing.colour]) * rng.uniform(0.85, 1.0) + rng.uniform(-10, 10, 3)
    top = thing.cell // 3 * CELL + _off_centre(rng, CELL - height)
    left = thing.cell % 3 * CELL + _off_centre(rng, CELL - width)
    patch = canvas[top : top + height, left : left + width]
    patch += ink * (tint - patch)


def _off_centre(rng, room: int) -> int:
    """Where in `room` pixels to start: the middle, give or take JITTER."""
    return int(np.clip(room // 2 + rng.integers(-JITTER, JITTER + 1), 0, room))


@cache
def handwriting():
    """scikit-learn's digits, read once."""
    from sklearn.datasets import load_digits

    return load_digits()


@cache
def _glyphs(split: str) -> list[np.ndarray]:
    """For each digit, (n, 8, 8) uint8: that digit as the split's writers wrote it."""
    digits = handwriting()
    chosen = WRITERS["test" if split == "swap" else split]
    mine = np.isin(np.searchsorted(STARTS, np.arange(len(digits.images)), "right") - 1, chosen)
    images = np.minimum(digits.images[mine] * 16, 255).astype(np.uint8)
    return [images[digits.target[mine] == digit] for digit in range(10)]
