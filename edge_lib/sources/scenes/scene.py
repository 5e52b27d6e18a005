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

from dataclasses import dataclass, replace

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


SPLITS = ("train", "val", "test", "swap")


EDITS = ("scene", "digit changed", "colour changed", "digit moved")


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
