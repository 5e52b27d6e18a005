"""Scenes: what is in them, what is said of them, and what is drawn."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edge_lib.config import ScenesConfig
from edge_lib.sources.scenes.generate import random_scene, random_scenes, swap_pairs, twin_groups
from edge_lib.sources.scenes.render import CELL, SIZE, STARTS, WRITERS, _glyphs, labels, render
from edge_lib.sources.scenes.scene import COLOURS, DIGITS, EDITS, PHRASINGS, PLACES, Scene, Thing
from edge_lib.sources.scenes.table import scene_row

SPLITS = ("train", "val", "test")


def groups(split="test", size=120, max_objects=4, seed=0):
    return list(twin_groups(split, size, max_objects, seed))


def pairs(size=40, max_objects=4, seed=0):
    return list(swap_pairs(size, max_objects, seed))


def parse(caption):
    """What a reader takes from a caption: {(digit, colour, large, cell)}."""
    said = set()
    for part in re.split(", | and ", caption):
        match = re.search(r"\ba (large|small|big|little) (\w+) (\w+)", part)
        size, colour, digit = match.groups()
        number = int(digit) if digit.isdigit() else DIGITS.index(digit)
        place = part.replace(match.group(), "").strip()
        said.add((number, colour, size in ("large", "big"), PLACES.index(place)))
    return said


def drawn(scene, split):
    """(9, CELL, CELL, 3) the cells of the rendered image."""
    pixels = np.asarray(render(scene, split)).astype(int)
    return pixels.reshape(3, CELL, 3, CELL, 3).swapaxes(1, 2).reshape(9, CELL, CELL, 3)


def changed_cells(one, two, split):
    return set(np.flatnonzero((drawn(one, split) != drawn(two, split)).any(axis=(1, 2, 3))))


def cells_of(things):
    return {cell for *_, cell in things}


# --- what a split holds ----------------------------------------------------------------------


def test_same_seed_same_rows_other_seed_or_split_other_rows():
    def rows(split, seed):
        made = itertools.chain.from_iterable(groups(split, 8, seed=seed))
        return [scene_row(ScenesConfig(), scene, split, n, 0) for n, scene in enumerate(made)]

    assert rows("val", 0) == rows("val", 0)
    captions = [str([r["texts"] for r in rows(s, k)]) for s in SPLITS for k in (0, 1)]
    assert len(set(captions)) == 6


def test_swaps_and_random_scenes_are_deterministic():
    assert pairs(10) == pairs(10)
    assert pairs(10) != pairs(10, seed=1)
    assert list(random_scenes("val", 9, 9, 2)) == list(random_scenes("val", 9, 9, 2))


def test_random_scenes_are_not_the_evaluated_ones():
    evaluated = {scene.content for group in groups("test", 200) for scene in group}
    trained = {scene.content for scene in random_scenes("test", 200, 4, 0)}
    assert len(evaluated & trained) < 10


@pytest.mark.parametrize("size", [1, 2, 4, 7, 40])
def test_as_many_rows_as_asked(size):
    assert sum(map(len, groups(size=size))) == size


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("max_objects", [1, 4, 9])
def test_no_two_rows_of_a_split_share_content_or_caption(split, max_objects):
    made = [scene for group in groups(split, 300, max_objects) for scene in group]
    assert len({scene.content for scene in made}) == 300
    assert len({scene.caption() for scene in made}) == 300


@pytest.mark.parametrize("max_objects", [1, 2, 4, 9])
def test_no_cell_is_taken_twice_and_counts_are_in_range(max_objects):
    made = [scene for group in groups(size=600, max_objects=max_objects) for scene in group]
    for scene in made:
        assert len({thing.cell for thing in scene.things}) == len(scene.things)
        assert all(0 <= t.digit <= 9 and t.colour in COLOURS for t in scene.things)
    assert {len(scene.things) for scene in made} == set(range(1, max_objects + 1))


def test_more_scenes_than_exist_are_refused(monkeypatch):
    """One digit alone makes 10 x 8 x 2 x 9 different scenes: looking for more must end."""
    draws = itertools.count()
    draw = random_scene

    def counted(*args):
        assert next(draws) < 20_000, "it would go on forever"
        return draw(*args)

    monkeypatch.setattr("edge_lib.sources.scenes.generate.random_scene", counted)
    with pytest.raises(ValueError, match="scenes"):
        groups("train", 1441, max_objects=1)


# --- twins -----------------------------------------------------------------------------------


def edit_of(one, two):
    """The single way in which two scenes' things differ, told as in EDITS."""
    differ = [(a, b) for a, b in zip(one.things, two.things, strict=True) if a != b]
    assert len(differ) == 1, "exactly one thing is edited"
    before, after = differ[0]
    fields = [n for n in ("digit", "colour", "large", "cell") if vars(before)[n] != vars(after)[n]]
    assert (before.glyph, one.phrasing) == (after.glyph, two.phrasing)
    names = {"digit": "digit changed", "colour": "colour changed", "cell": "digit moved"}
    return [names.get(field, field) for field in fields]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("max_objects", [1, 4, 9])
def test_a_group_is_a_scene_and_its_single_edits(split, max_objects):
    for base, *twins in groups(split, 120, max_objects)[:-1]:
        edits = [edit_of(base, twin) for twin in twins]
        # in a full grid no cell is free to move to
        assert edits == [[name] for name in EDITS[1 : 3 if len(base.things) == 9 else None]]


def test_captions_of_twins_differ_in_the_edited_thing_alone():
    for base, *twins in groups(size=120):
        for twin in twins:
            gone, come = base.content - twin.content, twin.content - base.content
            assert parse(base.caption()) - parse(twin.caption()) == gone
            assert parse(twin.caption()) - parse(base.caption()) == come
            assert len(gone) == len(come) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_pixels_of_twins_differ_in_the_edited_cells_alone(split):
    for base, *twins in groups(split, 80, 9):
        for twin in twins:
            edited = cells_of(base.content ^ twin.content)
            assert changed_cells(base, twin, split) == edited


# --- swaps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_objects", [1, 2, 4, 9])
def test_swaps_say_the_same_words_of_another_scene(max_objects):
    made = pairs(60, max_objects)
    assert len(made) == 60
    for one, two in made:
        words = [Counter(re.findall(r"\w+", scene.caption())) for scene in (one, two)]
        assert words[0] == words[1]
        assert one.content != two.content
        assert one.caption() != two.caption()
    assert len({frozenset((one.content, two.content)) for one, two in made}) == 60


def test_swaps_exchange_two_places_and_nothing_else():
    for one, two in pairs():
        moved = [(a, b) for a, b in zip(one.things, two.things, strict=True) if a != b]
        assert len(moved) == 2
        (a, new_a), (b, new_b) = moved
        assert (new_a.cell, new_b.cell) == (b.cell, a.cell)
        assert all(x.looks[:3] == y.looks[:3] and x.glyph == y.glyph for x, y in moved)
        assert changed_cells(one, two, "swap") <= {a.cell, b.cell}
        assert changed_cells(one, two, "swap")


# --- captions and labels ---------------------------------------------------------------------


@pytest.mark.parametrize("phrasing", range(len(PHRASINGS)))
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_caption_says_exactly_what_is_there(phrasing, count):
    rng = np.random.default_rng(count)
    colours = list(COLOURS)
    things = tuple(
        Thing(int(rng.integers(10)), colours[i % 8], bool(i % 2), int(cell), i)
        for i, cell in enumerate(rng.permutation(9)[:count])
    )
    scene = Scene(things, phrasing)
    assert parse(scene.caption()) == scene.content


def test_captions_vary_in_phrasing_and_order():
    made = [scene for scene, *_ in groups(size=240)]
    assert {scene.phrasing for scene in made} == set(range(len(PHRASINGS)))
    assert any(s.things[0].cell > s.things[-1].cell for s in made)
    assert any(s.things[0].cell < s.things[-1].cell for s in made)


def test_labels_agree_with_the_scene():
    for scene in random_scenes("val", 40, 9, 0):
        table = labels(scene)
        assert table.shape == (9, 3)
        found = {
            (int(digit), list(COLOURS)[colour], bool(large), cell)
            for cell, (digit, colour, large) in enumerate(table)
            if digit >= 0
        }
        assert found == scene.content
        empty = [cell for cell in range(9) if cell not in cells_of(scene.content)]
        assert (table[empty] == -1).all()


# --- drawing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [*SPLITS, "swap"])
def test_ink_stands_in_occupied_cells_alone(split):
    for scene in random_scenes(split, 30, 9, 0):
        cells = drawn(scene, split)
        background = 12 + scene.things[0].glyph % 24
        inked = set(np.flatnonzero((cells != background).any(axis=(1, 2, 3))))
        assert inked == cells_of(scene.content)
        assert render(scene, split).size == (SIZE, SIZE)


@pytest.mark.parametrize("colour", COLOURS)
def test_large_is_larger_and_colour_is_seen(colour):
    def ink(large, glyph):
        cell = drawn(Scene((Thing(8, colour, large, 4, glyph),), 0), "test")[4]
        background = 12 + glyph % 24
        return cell, np.abs(cell - background).max(-1) > 40

    for glyph in range(10):
        big, big_ink = ink(True, glyph)
        _, small_ink = ink(False, glyph)
        assert big_ink.sum() > 1.3 * small_ink.sum()
        strongest = big[np.unravel_index(big.sum(-1).argmax(), big.shape[:2])]
        distance = {c: np.abs(strongest - np.array(rgb)).sum() for c, rgb in COLOURS.items()}
        assert min(distance, key=distance.get) == colour


def test_handwriting_of_a_split_is_its_writers_alone():
    digits = load_digits()
    inks = {}
    for split in SPLITS:
        mine = np.concatenate([np.arange(*STARTS[w : w + 2]) for w in WRITERS[split]])
        images, targets = digits.images[mine], digits.target[mine]
        inks[split] = {image.tobytes() for image in images}
        for digit, glyphs in enumerate(_glyphs(split)):
            expected = np.minimum(images[targets == digit] * 16, 255)
            np.testing.assert_array_equal(glyphs, expected)
    for one, two in itertools.combinations(SPLITS, 2):
        assert not inks[one] & inks[two]
    assert sorted(itertools.chain(*WRITERS.values())) == list(range(len(STARTS) - 1))


def test_writers_are_cut_where_they_begin():
    """Each writes 0..9 three times over before anything else."""
    targets, alphabet = load_digits().target, list(range(10))
    for start in STARTS[:-1]:
        runs = [targets[start + i : start + i + 10].tolist() == alphabet for i in (0, 10, 20)]
        assert sum(runs) >= 1  # not 3: some labels at the beginning are out of order
        before = [targets[max(0, start - i) :][:10].tolist() == alphabet for i in (10, 20, 30)]
        assert not any(before) or start == 0
    assert STARTS[-1] == len(targets)


def test_swaps_are_drawn_by_test_writers():
    scene = next(random_scenes("test", 1, 4, 0))
    images = {split: drawn(scene, split) for split in (*SPLITS, "swap")}
    np.testing.assert_array_equal(images["swap"], images["test"])
    assert (images["train"] != images["test"]).any()


def test_row_holds_the_image_as_png(make_table):
    scene = next(random_scenes("test", 1, 4, 0))
    table = make_table([scene_row(ScenesConfig(), scene, "test", 3, 7)])
    assert (table.ids, table.groups.tolist()) == (["test-000003"], [7])
    assert table.captions == [scene.caption()]
    (image,) = table.images([0])
    np.testing.assert_array_equal(np.asarray(image), np.asarray(render(scene, "test")))
