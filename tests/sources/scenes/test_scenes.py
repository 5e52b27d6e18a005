"""Scenes: content, captions, twins, swapped pairs and rendered images."""

import itertools
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edge_lib.config import ScenesConfig
from edge_lib.sources.scenes.generate import random_scene, random_scenes, swap_pairs, twin_groups
from edge_lib.sources.scenes.render import (
    CELL,
    SIZE,
    WRITER_STARTS,
    WRITERS,
    _glyphs,
    cell_labels,
    render,
)
from edge_lib.sources.scenes.rows import scene_row, scene_rows
from edge_lib.sources.scenes.scene import COLOURS, DIGITS, EDITS, PHRASINGS, PLACES, Scene, Thing

SPLITS = ("train", "val", "test")


def groups(split="test", size=120, max_objects=4, seed=0):
    return list(twin_groups(split, size, max_objects, seed))


def pairs(size=40, max_objects=4, seed=0):
    return list(swap_pairs(size, max_objects, seed))


def parse(caption):
    """The content of a caption, read by an independent parser: {(digit, colour, large, cell)}."""
    content = set()
    for part in re.split(", | and ", caption):
        match = re.search(r"\ba (large|small|big|little) (\w+) (\w+)", part)
        size, colour, digit = match.groups()
        number = int(digit) if digit.isdigit() else DIGITS.index(digit)
        place = part.replace(match.group(), "").strip()
        content.add((number, colour, size in ("large", "big"), PLACES.index(place)))
    return content


def rendered_cells(scene, split):
    """(9, CELL, CELL, 3) pixels of each cell."""
    pixels = np.asarray(render(scene, split)).astype(int)
    return pixels.reshape(3, CELL, 3, CELL, 3).swapaxes(1, 2).reshape(9, CELL, CELL, 3)


def changed_cells(one, two, split):
    return set(
        np.flatnonzero(
            (rendered_cells(one, split) != rendered_cells(two, split)).any(axis=(1, 2, 3))
        )
    )


def cells_of(things):
    return {cell for *_, cell in things}


# --- splits ----------------------------------------------------------------------------------


def test_rows_depend_on_seed_and_split_only():
    def rows(split, seed):
        scenes = itertools.chain.from_iterable(groups(split, 8, seed=seed))
        return [scene_row(ScenesConfig(), scene, split, n, 0) for n, scene in enumerate(scenes)]

    assert rows("val", 0) == rows("val", 0)
    captions = [str([r["texts"] for r in rows(s, k)]) for s in SPLITS for k in (0, 1)]
    assert len(set(captions)) == 6


def test_swap_pairs_and_random_scenes_are_deterministic():
    assert pairs(10) == pairs(10)
    assert pairs(10) != pairs(10, seed=1)
    assert list(random_scenes("val", 9, 9, 2)) == list(random_scenes("val", 9, 9, 2))


def test_random_scenes_overlap_little_with_evaluated_scenes():
    evaluated = {scene.content for group in groups("test", 200) for scene in group}
    trained = {scene.content for scene in random_scenes("test", 200, 4, 0)}
    assert len(evaluated & trained) < 10


@pytest.mark.parametrize("size", [1, 2, 4, 7, 40])
def test_twin_groups_yield_the_requested_number_of_scenes(size):
    assert sum(map(len, groups(size=size))) == size


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("max_objects", [1, 4, 9])
def test_split_has_no_duplicate_content_or_caption(split, max_objects):
    scenes = [scene for group in groups(split, 300, max_objects) for scene in group]
    assert len({scene.content for scene in scenes}) == 300
    assert len({scene.caption() for scene in scenes}) == 300


@pytest.mark.parametrize("max_objects", [1, 2, 4, 9])
def test_scenes_have_distinct_cells_and_counts_in_range(max_objects):
    scenes = [scene for group in groups(size=600, max_objects=max_objects) for scene in group]
    for scene in scenes:
        assert len({thing.cell for thing in scene.things}) == len(scene.things)
        assert all(0 <= t.digit <= 9 and t.colour in COLOURS for t in scene.things)
    assert {len(scene.things) for scene in scenes} == set(range(1, max_objects + 1))


def test_twin_groups_reject_more_scenes_than_exist(monkeypatch):
    """There are 10 x 8 x 2 x 9 scenes of one digit: the search for more must end."""
    draws = itertools.count()
    draw = random_scene

    def counted(*args):
        assert next(draws) < 20_000, "endless search"
        return draw(*args)

    monkeypatch.setattr("edge_lib.sources.scenes.generate.random_scene", counted)
    with pytest.raises(ValueError, match="scenes"):
        groups("train", 1441, max_objects=1)


# --- twins -----------------------------------------------------------------------------------


def test_twin_groups_also_hold_an_exchange():
    with_exchange = list(twin_groups("train", 200, 4, 0, swap=True))
    scenes = [scene for group in with_exchange for scene in group]
    assert len({scene.content for scene in scenes}) == len(scenes) == 200
    for group in with_exchange[:-1]:  # the last is cut short
        assert len(group) == (5 if len(group[0].things) > 1 else 4)
        for scene in group[4:]:
            moved = {t.cell: t.attributes[:3] for t in scene.things}
            assert moved.keys() == {t.cell for t in group[0].things}
            assert sorted(moved.values()) == sorted(t.attributes[:3] for t in group[0].things)
            changed = [t for t in group[0].things if moved[t.cell] != t.attributes[:3]]
            assert len(changed) == 2
            assert sorted(parse(scene.caption())) == sorted(scene.content)


def test_only_training_rows_hold_exchanges():
    sizes = {f"{split}_size": 40 for split in SPLITS}
    plain, swapped = (ScenesConfig(**sizes, swap_twins=swap) for swap in (False, True))
    for split in SPLITS:
        texts = [[row["texts"] for row in scene_rows(c, split)] for c in (plain, swapped)]
        assert (texts[0] == texts[1]) == (split != "train")
    largest = np.unique([row["group"] for row in scene_rows(swapped, "train")], return_counts=True)
    assert max(largest[1]) == 5


def edit_of(one, two):
    """The edit between two scenes that differ in one thing, with the names of EDITS."""
    differ = [(a, b) for a, b in zip(one.things, two.things, strict=True) if a != b]
    assert len(differ) == 1, "exactly one thing must differ"
    before, after = differ[0]
    fields = [n for n in ("digit", "colour", "large", "cell") if vars(before)[n] != vars(after)[n]]
    assert (before.glyph, one.phrasing) == (after.glyph, two.phrasing)
    names = {"digit": "digit changed", "colour": "colour changed", "cell": "digit moved"}
    return [names.get(field, field) for field in fields]


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("max_objects", [1, 4, 9])
def test_group_is_a_scene_and_its_single_edits(split, max_objects):
    for base, *twins in groups(split, 120, max_objects)[:-1]:
        edits = [edit_of(base, twin) for twin in twins]
        # in a full grid no digit can move
        assert edits == [[name] for name in EDITS[1 : 3 if len(base.things) == 9 else None]]


def test_captions_of_twins_differ_in_the_edited_thing_only():
    for base, *twins in groups(size=120):
        for twin in twins:
            removed, added = base.content - twin.content, twin.content - base.content
            assert parse(base.caption()) - parse(twin.caption()) == removed
            assert parse(twin.caption()) - parse(base.caption()) == added
            assert len(removed) == len(added) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_pixels_of_twins_differ_in_the_edited_cells_only(split):
    for base, *twins in groups(split, 80, 9):
        for twin in twins:
            edited = cells_of(base.content ^ twin.content)
            assert changed_cells(base, twin, split) == edited


# --- swaps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_objects", [1, 2, 4, 9])
def test_swapped_captions_have_the_same_words_and_another_content(max_objects):
    scenes = pairs(60, max_objects)
    assert len(scenes) == 60
    for one, two in scenes:
        words = [Counter(re.findall(r"\w+", scene.caption())) for scene in (one, two)]
        assert words[0] == words[1]
        assert one.content != two.content
        assert one.caption() != two.caption()
    assert len({frozenset((one.content, two.content)) for one, two in scenes}) == 60


def test_swaps_exchange_two_places_only():
    for one, two in pairs():
        moved = [(a, b) for a, b in zip(one.things, two.things, strict=True) if a != b]
        assert len(moved) == 2
        (a, new_a), (b, new_b) = moved
        assert (new_a.cell, new_b.cell) == (b.cell, a.cell)
        assert all(x.attributes[:3] == y.attributes[:3] and x.glyph == y.glyph for x, y in moved)
        assert changed_cells(one, two, "swap") <= {a.cell, b.cell}
        assert changed_cells(one, two, "swap")


# --- captions and labels ---------------------------------------------------------------------


@pytest.mark.parametrize("phrasing", range(len(PHRASINGS)))
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_caption_describes_the_whole_content(phrasing, count):
    rng = np.random.default_rng(count)
    colours = list(COLOURS)
    things = tuple(
        Thing(int(rng.integers(10)), colours[i % 8], bool(i % 2), int(cell), i)
        for i, cell in enumerate(rng.permutation(9)[:count])
    )
    scene = Scene(things, phrasing)
    assert parse(scene.caption()) == scene.content


def test_captions_vary_in_phrasing_and_order():
    scenes = [scene for scene, *_ in groups(size=240)]
    assert {scene.phrasing for scene in scenes} == set(range(len(PHRASINGS)))
    assert any(s.things[0].cell > s.things[-1].cell for s in scenes)
    assert any(s.things[0].cell < s.things[-1].cell for s in scenes)


def test_cell_labels_match_the_scene():
    for scene in random_scenes("val", 40, 9, 0):
        labels = cell_labels(scene)
        assert labels.shape == (9, 3)
        content = {
            (int(digit), list(COLOURS)[colour], bool(large), cell)
            for cell, (digit, colour, large) in enumerate(labels)
            if digit >= 0
        }
        assert content == scene.content
        empty = [cell for cell in range(9) if cell not in cells_of(scene.content)]
        assert (labels[empty] == -1).all()


# --- images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [*SPLITS, "swap"])
def test_only_occupied_cells_have_ink(split):
    for scene in random_scenes(split, 30, 9, 0):
        cells = rendered_cells(scene, split)
        background = 12 + scene.things[0].glyph % 24
        with_ink = set(np.flatnonzero((cells != background).any(axis=(1, 2, 3))))
        assert with_ink == cells_of(scene.content)
        assert render(scene, split).size == (SIZE, SIZE)


@pytest.mark.parametrize("colour", COLOURS)
def test_large_digits_are_larger_and_colours_are_recognisable(colour):
    def ink(large, glyph):
        cell = rendered_cells(Scene((Thing(8, colour, large, 4, glyph),), 0), "test")[4]
        background = 12 + glyph % 24
        return cell, np.abs(cell - background).max(-1) > 40

    for glyph in range(10):
        big, big_ink = ink(True, glyph)
        _, small_ink = ink(False, glyph)
        assert big_ink.sum() > 1.3 * small_ink.sum()
        strongest = big[np.unravel_index(big.sum(-1).argmax(), big.shape[:2])]
        distance = {c: np.abs(strongest - np.array(rgb)).sum() for c, rgb in COLOURS.items()}
        assert min(distance, key=distance.get) == colour


def test_splits_share_no_handwriting():
    digits = load_digits()
    inks = {}
    for split in SPLITS:
        rows = np.concatenate([np.arange(*WRITER_STARTS[w : w + 2]) for w in WRITERS[split]])
        images, targets = digits.images[rows], digits.target[rows]
        inks[split] = {image.tobytes() for image in images}
        for digit, glyphs in enumerate(_glyphs(split)):
            expected = np.minimum(images[targets == digit] * 16, 255)
            np.testing.assert_array_equal(glyphs, expected)
    for one, two in itertools.combinations(SPLITS, 2):
        assert not inks[one] & inks[two]
    assert sorted(itertools.chain(*WRITERS.values())) == list(range(len(WRITER_STARTS) - 1))


def test_writer_starts_are_where_each_writer_begins():
    """Every writer first writes 0..9 three times over."""
    targets, alphabet = load_digits().target, list(range(10))
    for start in WRITER_STARTS[:-1]:
        runs = [targets[start + i : start + i + 10].tolist() == alphabet for i in (0, 10, 20)]
        assert sum(runs) >= 1  # not 3: some of the first labels are out of order
        before = [targets[max(0, start - i) :][:10].tolist() == alphabet for i in (10, 20, 30)]
        assert not any(before) or start == 0
    assert WRITER_STARTS[-1] == len(targets)


def test_swap_split_uses_the_handwriting_of_test():
    scene = next(random_scenes("test", 1, 4, 0))
    images = {split: rendered_cells(scene, split) for split in (*SPLITS, "swap")}
    np.testing.assert_array_equal(images["swap"], images["test"])
    assert (images["train"] != images["test"]).any()


def test_row_holds_the_rendered_image(make_table):
    scene = next(random_scenes("test", 1, 4, 0))
    table = make_table([scene_row(ScenesConfig(), scene, "test", 3, 7)])
    assert (table.ids, table.groups.tolist()) == (["test-000003"], [7])
    assert table.captions == [scene.caption()]
    (image,) = table.images([0])
    np.testing.assert_array_equal(np.asarray(image), np.asarray(render(scene, "test")))
