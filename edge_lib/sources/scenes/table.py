"""Scenes as rows of the one-table schema: drawn, spoken where asked for, and perhaps degraded."""

import io
from collections.abc import Iterator
from itertools import chain

import numpy as np
from PIL import Image

from edge_lib.config import DataConfig, ScenesConfig
from edge_lib.data.audio import decode
from edge_lib.data.table import Table
from edge_lib.sources.generated import generated_path, read_generated
from edge_lib.sources.scenes.degrade import add_noise, occlude
from edge_lib.sources.scenes.generate import swap_pairs, twin_groups
from edge_lib.sources.scenes.parallel import in_parallel
from edge_lib.sources.scenes.probes import swap_metrics
from edge_lib.sources.scenes.render import render, to_png
from edge_lib.sources.scenes.scene import SPLITS, Scene
from edge_lib.sources.scenes.speech import Voice, speak, to_flac
from edge_lib.sources.source import Source
from edge_lib.sources.splits import DEGRADED
from edge_lib.sources.splits import SPLITS as STANDARD_SPLITS

VERSION = 1  # raise it when the same config gives other rows


def scene_splits(config: DataConfig) -> tuple[str, ...]:
    """Train, val and test, the pairs of the swap probe, and the degraded splits, if any."""
    degraded = [f"{DEGRADED}{split}" for split in STANDARD_SPLITS]
    return (*STANDARD_SPLITS, "swap", *(degraded if config.scenes.degraded_size else ()))


def scene_rows(config: ScenesConfig, split: str) -> Iterator[dict]:
    """Rows of a split in order, made on all cores where they have to be spoken."""
    groups = enumerate(_groups(config, split))
    numbered = enumerate(chain.from_iterable([(g, s) for s in group] for g, group in groups))
    jobs = ((config, scene, split, number, group) for number, (group, scene) in numbered)
    if not config.speech:
        yield from (scene_row(*job) for job in jobs)
        return
    yield from in_parallel(scene_row, jobs)


def scene_row(config: ScenesConfig, scene: Scene, split: str, number: int, group: int) -> dict:
    """One row of the schema."""
    clip = say(scene, split, number, config.seed)[0] if config.speech else None
    return {
        "id": f"{split}-{number:06d}",
        "image": to_png(render(scene, split)),
        "texts": scene.captions(config.captions),
        "audio": None if clip is None else to_flac(clip),
        "question": None,
        "answers": None,
        "group": group,
    }


def degraded_rows(config: ScenesConfig, whole: Table) -> Iterator[dict]:
    """The first rows of a split, damaged: the same ids, captions and speakers."""
    count = min(len(whole), config.degraded_size)
    jobs = ((row, config.seed, number) for number, row in enumerate(whole.dataset.take(count)))
    yield from in_parallel(degraded_row, jobs)


def degraded_row(row: dict, seed: int, number: int) -> dict:
    """A row with a part of its image hidden and a part of its clip drowned in noise."""
    rng = np.random.default_rng([seed, number, 3])
    image = occlude(Image.open(io.BytesIO(row["image"])), rng)
    clip = row["audio"] and to_flac(add_noise(decode(row["audio"]), rng))
    return {**row, "image": to_png(image), "audio": clip}


def say(scene: Scene, split: str, number: int, seed: int) -> tuple[np.ndarray, list]:
    """`speak` the scene's caption in one of the split's voices, drawn by the numbers."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number, 2])
    voice = Voice.random(rng, "test" if split == "swap" else split)
    return speak(scene.caption(), voice)


def _groups(config: ScenesConfig, split: str) -> Iterator[list[Scene]]:
    if split == "swap":
        return swap_pairs(config.swap_size, config.max_objects, config.seed)
    size = getattr(config, f"{split}_size")
    return twin_groups(split, size, config.max_objects, config.seed)


def load(config: DataConfig, split: str) -> Table:
    """One split of the scenes, generated on first use."""
    path = generated_path(config.cache_dir, "scenes", config.scenes, VERSION, split)
    return read_generated(path, lambda: _rows(config, split), f"scenes {split}")


def _rows(config: DataConfig, split: str) -> Iterator[dict]:
    if not split.startswith(DEGRADED):
        return scene_rows(config.scenes, split)
    return degraded_rows(config.scenes, load(config, split.removeprefix(DEGRADED)))


SOURCE = Source(load, splits=scene_splits, probe=swap_metrics)
