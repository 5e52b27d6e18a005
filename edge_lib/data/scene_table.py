"""Scenes as rows of the one-table schema: drawn, spoken where asked for, and perhaps degraded."""

import io
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

import numpy as np
from joblib import Parallel, delayed, parallel_config
from PIL import Image

from edge_lib.config import ScenesConfig
from edge_lib.data import scenes, speech
from edge_lib.data.degrade import add_noise, occlude
from edge_lib.data.scenes import Scene
from edge_lib.data.table import Table

DEGRADED = "degraded-"  # before train, val or test: the same scenes, but damaged


def scene_splits(config: ScenesConfig) -> tuple[str, ...]:
    """The splits there are; swap is the swap probe."""
    damaged = [f"{DEGRADED}{split}" for split in ("train", "val", "test")]
    return ("train", "val", "test", "swap", *(damaged if config.degraded_size else ()))


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
        "image": to_png(scenes.render(scene, split)),
        "texts": scene.captions(config.captions),
        "audio": None if clip is None else speech.to_flac(clip),
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
    clip = row["audio"] and speech.to_flac(add_noise(speech.decode(row["audio"]), rng))
    return {**row, "image": to_png(image), "audio": clip}


def in_parallel(function: Callable, jobs: Iterable[tuple], size: int = 250) -> Iterator:
    """Results of `function(*job)` in order, made by all cores.

    What eSpeak says depends on what it said before, so each `size` jobs get a process of their own:
    the same jobs give the same bytes, whatever the number of cores.
    """
    jobs = iter(jobs)
    chunks = iter(lambda: list(islice(jobs, size)), [])
    # the processes wait a moment for the next split, and then end
    with parallel_config("loky", n_jobs=-1, idle_worker_timeout=10, inner_max_num_threads=1):
        made = Parallel(return_as="generator")(delayed(_afresh)(function, c) for c in chunks)
        yield from chain.from_iterable(made)


def _afresh(function: Callable, jobs: list[tuple]) -> list:
    scenes.handwriting(), speech.resampling()  # read here once, for all that are forked
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.starmap(function, jobs, chunksize=len(jobs))


def say(scene: Scene, split: str, number: int, seed: int) -> tuple[np.ndarray, list]:
    """`speech.speak` the scene's caption in one of the split's voices, drawn by the numbers."""
    rng = np.random.default_rng([seed, scenes.SPLITS.index(split), number, 2])
    voice = speech.Voice.random(rng, "test" if split == "swap" else split)
    return speech.speak(scene.caption(), voice)


def _groups(config: ScenesConfig, split: str) -> Iterator[list[Scene]]:
    if split == "swap":
        return scenes.swap_pairs(config.swap_size, config.max_objects, config.seed)
    size = getattr(config, f"{split}_size")
    return scenes.twin_groups(split, size, config.max_objects, config.seed)


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
