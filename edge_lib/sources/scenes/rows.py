"""Rows of scenes in `data.table.SCHEMA`: with images, optionally with speech, or degraded."""

import io
from collections.abc import Iterator
from itertools import starmap

import numpy as np
from PIL import Image

from edge_lib.config import ScenesConfig
from edge_lib.data.audio import decode_audio
from edge_lib.data.table import Table
from edge_lib.sources.scenes.degrade import add_noise, occlude
from edge_lib.sources.scenes.generate import swap_pairs, twin_groups
from edge_lib.sources.scenes.parallel import run_in_parallel
from edge_lib.sources.scenes.render import render, to_png
from edge_lib.sources.scenes.scene import Scene
from edge_lib.sources.scenes.speech import speak_scene, to_flac


def scene_rows(config: ScenesConfig, split: str) -> Iterator[dict]:
    """The rows of a split in order; with speech, generated on all cores."""
    groups = enumerate(_scene_groups(config, split))
    scenes = enumerate((group, scene) for group, twins in groups for scene in twins)
    jobs = ((config, scene, split, number, group) for number, (group, scene) in scenes)
    return run_in_parallel(scene_row, jobs) if config.speech else starmap(scene_row, jobs)


def scene_row(config: ScenesConfig, scene: Scene, split: str, number: int, group: int) -> dict:
    """One row of the schema. number: of the scene in its split; group: shared by twins."""
    clip = speak_scene(scene, split, number, config.seed)[0] if config.speech else None
    return {
        "id": f"{split}-{number:06d}",
        "image": to_png(render(scene, split)),
        "texts": scene.captions(config.captions),
        "audio": None if clip is None else to_flac(clip),
        "question": None,
        "answers": None,
        "group": group,
    }


def degraded_rows(config: ScenesConfig, clean: Table) -> Iterator[dict]:
    """The first rows of a split with damaged images and clips; other columns are the same."""
    count = min(len(clean), config.degraded_size)
    jobs = ((row, config.seed, number) for number, row in enumerate(clean.dataset.take(count)))
    return run_in_parallel(degraded_row, jobs)


def degraded_row(row: dict, seed: int, number: int) -> dict:
    """The row with part of its image hidden and part of its clip covered by noise."""
    rng = np.random.default_rng([seed, number, 3])
    image = occlude(Image.open(io.BytesIO(row["image"])), rng)
    clip = row["audio"] and to_flac(add_noise(decode_audio(row["audio"]), rng))
    return {**row, "image": to_png(image), "audio": clip}


def _scene_groups(config: ScenesConfig, split: str) -> Iterator[list[Scene]]:
    if split == "swap":
        return swap_pairs(config.swap_size, config.max_objects, config.seed)
    size, swap = getattr(config, f"{split}_size"), config.swap_twins and split == "train"
    return twin_groups(split, size, config.max_objects, config.seed, swap)
