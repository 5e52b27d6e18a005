"""Scenes drawn as images, in real handwriting."""

import io
from functools import cache

import numpy as np
from PIL import Image

from edge_lib.sources.scenes.scene import COLOURS, Scene, Thing

CELL = 32  # pixels; an image has 3 x 3 cells
SIZE = 3 * CELL
JITTER = 4  # pixels that a digit may be off the centre of its cell

# Where each writer's digits begin in load_digits, and the end. Every writer starts with 0..9 three
# times over; these runs mark the boundaries.
WRITER_STARTS = (0, 130, 256, 386, 516, 646, 776, 905, 1029, 1157, 1287, 1415, 1545, 1667, 1797)
WRITERS = {"train": (0, 1, 3, 5, 6, 8, 10, 11, 13), "val": (4, 9), "test": (2, 7, 12)}


def render(scene: Scene, split: str) -> Image.Image:
    """Draw the scene in the handwriting of the split's writers: RGB, 96 x 96 pixels."""
    background = 12 + scene.things[0].glyph % 24
    canvas = np.full((SIZE, SIZE, 3), background, np.float32)
    for thing in scene.things:
        _draw(canvas, thing, split)
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8))


def cell_labels(scene: Scene) -> np.ndarray:
    """(9, 3) digit, colour and size of each cell; -1 where the cell is empty."""
    labels = np.full((9, 3), -1)
    colours = list(COLOURS)
    for t in scene.things:
        labels[t.cell] = t.digit, colours.index(t.colour), int(t.large)
    return labels


def _draw(canvas: np.ndarray, thing: Thing, split: str) -> None:
    """Paint one digit into its cell: slanted, rotated, off-centre, in a tint of its colour."""
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


def _off_centre(rng: np.random.Generator, space: int) -> int:
    """Offset of a digit with `space` free pixels: half of them, plus or minus JITTER."""
    return int(np.clip(space // 2 + rng.integers(-JITTER, JITTER + 1), 0, space))


@cache
def load_handwriting():
    """scikit-learn's digits, loaded once per process."""
    from sklearn.datasets import load_digits

    return load_digits()


@cache
def _glyphs(split: str) -> list[np.ndarray]:
    """(n, 8, 8) uint8 images of each digit by the split's writers."""
    digits = load_handwriting()
    numbers = np.searchsorted(WRITER_STARTS, np.arange(len(digits.images)), "right") - 1
    by_split = np.isin(numbers, WRITERS["test" if split == "swap" else split])
    images = np.minimum(digits.images[by_split] * 16, 255).astype(np.uint8)
    return [images[digits.target[by_split] == digit] for digit in range(10)]


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
