"""Random scenes: groups of minimal-edit twins, swapped pairs, unrelated scenes."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edge_lib.sources.scenes.scene import COLOURS, PHRASINGS, SPLITS, Scene, Thing


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
