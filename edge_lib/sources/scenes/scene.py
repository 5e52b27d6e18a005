"""Scenes: handwritten digits, coloured and placed on a 3x3 grid, with captions that describe them.

The built-in data set. Its handwriting is real (scikit-learn's `load_digits`, the UCI optical digits
of Alpaydin & Kaynak 1998). Scenes are generated offline in seconds; a seed always gives the same
bytes.

Three properties make recall on it meaningful:
* each writer's digits appear in one split only;
* no two rows of a split show the same scene, so each query has one right answer;
* rows come in groups of four *minimal-edit twins* (the scene; one digit changed; one colour
  changed; one digit moved), so a retriever that misses one detail misses the row.

The swap probe holds pairs of scenes whose two digits exchanged places. Their captions use the same
words and differ only in which digit is where (after Winoground, Thrush et al. 2022).
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

# what sets each twin of a group apart from the first, which is the scene itself
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
    def attributes(self) -> tuple[int, str, bool, int]:
        """Digit, colour, size and cell: all that a caption describes."""
        return self.digit, self.colour, self.large, self.cell


@dataclass(frozen=True)
class Scene:
    """Digits in the order of the caption, and the number of the caption's phrasing."""

    things: tuple[Thing, ...]
    phrasing: int

    @property
    def content(self) -> frozenset:
        """The attributes of all digits, whatever their order and handwriting."""
        return frozenset(thing.attributes for thing in self.things)

    def phrases(self) -> list[str]:
        """One phrase per digit, in order."""
        return [PHRASINGS[self.phrasing](thing) for thing in self.things]

    def caption(self) -> str:
        *others, last = self.phrases()
        return ", ".join(others) + " and " + last if others else last

    def captions(self, count: int) -> list[str]:
        """The same content in `count` phrasings, the scene's own phrasing first."""
        phrasings = ((self.phrasing + i) % len(PHRASINGS) for i in range(count))
        return [replace(self, phrasing=phrasing).caption() for phrasing in phrasings]


def _plain(t: Thing) -> str:
    return f"a {'large' if t.large else 'small'} {t.colour} {DIGITS[t.digit]} {PLACES[t.cell]}"


def _place_first(t: Thing) -> str:
    return f"{PLACES[t.cell]} a {'large' if t.large else 'small'} {t.colour} {DIGITS[t.digit]}"


def _numerals(t: Thing) -> str:
    return f"a {'big' if t.large else 'little'} {t.colour} {t.digit} {PLACES[t.cell]}"


PHRASINGS = (_plain, _place_first, _numerals)
