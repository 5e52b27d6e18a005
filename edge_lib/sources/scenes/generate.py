"""Random scenes: groups of minimal-edit twins, swapped pairs, independent scenes."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from edge_lib.sources.scenes.scene import COLOURS, PHRASINGS, SPLITS, Scene, Thing


def twin_groups(
    split: str, size: int, max_objects: int, seed: int, swap: bool = False
) -> Iterator[list[Scene]]:
    """Yield groups of four twins (in the order of `EDITS`): `size` different scenes in all. swap:
    with a fifth, the scene with its first two digits exchanged, where it has two.

    Raises ValueError if there are not that many different scenes.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    seen = set()
    count = rejected = 0
    while count < size:
        group = _twins(rng, random_scene(rng, 1, max_objects))
        if swap and len(group[0].things) > 1:
            group.append(exchanged(group[0]))
        contents = {scene.content for scene in group}
        if len(contents) < len(group) or contents & seen:
            rejected += 1
            if rejected > 10 * size + 1000:
                raise ValueError(f"found only {count} different scenes, not {size}")
            continue
        seen |= contents
        yield group[: size - count]
        count += len(group)


def swap_pairs(size: int, max_objects: int, seed: int) -> Iterator[list[Scene]]:
    """Yield pairs of scenes that differ only in the places of two digits, exchanged."""
    rng = np.random.default_rng([seed, SPLITS.index("swap")])
    seen = set()
    while len(seen) < size:
        scene = random_scene(rng, 2, max(2, max_objects))
        pair = [scene, exchanged(scene)]
        key = frozenset(scene.content for scene in pair)
        if len(key) == 2 and key not in seen:
            seen.add(key)
            yield pair


def exchanged(scene: Scene) -> Scene:
    """The scene with its first two digits in each other's place."""
    first, second, *rest = scene.things
    swapped = replace(first, cell=second.cell), replace(second, cell=first.cell)
    return replace(scene, things=(*swapped, *rest))


def random_scenes(split: str, size: int, max_objects: int, seed: int) -> Iterator[Scene]:
    """Yield independent scenes of many digits, e.g. to train a backbone."""
    rng = np.random.default_rng([seed, SPLITS.index(split), 1])
    for _ in range(size):
        yield random_scene(rng, max(1, max_objects // 2), max_objects)


def random_scene(rng: np.random.Generator, min_objects: int, max_objects: int) -> Scene:
    """A scene of `min_objects` to `max_objects` digits."""
    # scenes of a single digit are made rare: only 1,440 different ones exist
    counts = np.arange(min_objects, max_objects + 1)
    weights = np.where(counts == 1, 0.2, 1.0)
    count = int(rng.choice(counts, p=weights / weights.sum()))
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


def _twins(rng: np.random.Generator, scene: Scene) -> list[Scene]:
    """The scene and its single edits, in the order of `EDITS`."""

    def edit(field: str, new_value: Callable) -> Scene:
        index = int(rng.integers(len(scene.things)))
        things = list(scene.things)
        things[index] = replace(things[index], **{field: new_value(things[index])})
        return replace(scene, things=tuple(things))

    occupied = {thing.cell for thing in scene.things}
    free = [cell for cell in range(9) if cell not in occupied]
    twins = [
        scene,
        edit("digit", lambda t: (t.digit + int(rng.integers(1, 10))) % 10),
        edit("colour", lambda t: str(rng.choice([c for c in COLOURS if c != t.colour]))),
    ]
    if free:
        twins.append(edit("cell", lambda t: int(rng.choice(free))))
    return twins
