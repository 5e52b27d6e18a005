"""The Parquet files of stamps: a row a thing, and a row a thing and language."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.config import ConfigError, HeldOutConfig
from edge_lib.runs.files import whole_file
from edge_lib.sources.download.stamp_files import ENGLISH, Thing
from edge_lib.sources.split import divide
from edge_lib.sources.split_names import SPLITS

HELD_OUT = 0.1  # share of val, and of test
TEXT, BYTES = pa.string(), pa.binary()
TEXTS = pa.list_(pa.struct({"language": TEXT, "text": TEXT}))
THINGS = pa.schema({"id": TEXT, "image": BYTES, "caption": TEXT, "texts": TEXTS, "category": TEXT})
VOICES = pa.schema(
    {"id": TEXT, "image_id": TEXT, "image": BYTES, "audio": BYTES}
    | dict.fromkeys(("caption", "language", "spoken"), TEXT)
    | {"seconds": pa.float32()}
)
REPEATED = ["image_id", "image", "caption", "language", "category"]
DICTIONARY_BYTES = 1 << 26  # of a column of a row group, in which each picture is stored once
GROUP_ROWS = 500


def divide_things(things: list[Thing], seed: int) -> dict[str, list[Thing]]:
    """The things of each split, in their order. Those with an equal picture are in one.
    ConfigError if a split has none.
    """
    pixels = np.array([thing.pixels for thing in things], object)
    numbers = divide([pixels], HeldOutConfig(val=HELD_OUT, test=HELD_OUT, seed=seed))
    parts = {name: [] for name in SPLITS}
    for thing, number in zip(things, numbers, strict=True):
        parts[SPLITS[number]].append(thing)
    if not all(parts.values()):
        raise ConfigError(f"{len(things)} things are too few for three splits; raise --rows")
    return parts


def drop_shared_clips(parts: dict[str, list[Thing]], skipped: dict[str, list[str]]) -> None:
    """Leave out clips that a thing of an earlier split has as well, such as "A flower.", so that no
    recording is in two splits.
    """
    earlier: set[bytes] = set()
    for part in parts.values():
        for thing in part:
            shared = [name for name, clip in thing.clips.items() if clip.content in earlier]
            for language in shared:
                del thing.clips[language]
                skipped["clip of an earlier split"].append(f"{thing.id} {language}")
        earlier |= {clip.content for thing in part for clip in thing.clips.values()}


def write_things(path: Path, things: Iterable[Thing]) -> None:
    _write(path, map(_thing_row, things), THINGS)


def write_voices(path: Path, things: Iterable[Thing]) -> None:
    _write(path, (row for thing in things for row in _voice_rows(thing)), VOICES)


def _thing_row(thing: Thing) -> dict[str, Any]:
    texts = [{"language": language, "text": text} for language, text in thing.texts.items()]
    category = thing.id.partition("/")[0]
    shared = {"id": thing.id, "image": thing.image, "caption": thing.caption}
    return shared | {"texts": texts, "category": category}


def _voice_rows(thing: Thing) -> Iterator[dict[str, Any]]:
    for language, clip in thing.clips.items():
        yield {
            "id": f"{thing.id} {language}",
            "image_id": thing.id,
            "image": thing.image,
            "audio": clip.content,
            "caption": thing.caption,
            "language": language,
            "spoken": thing.caption if language == ENGLISH else thing.texts.get(language),
            "seconds": clip.seconds,
        }


def _write(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = iter(rows)
    names = [name for name in REPEATED if name in schema.names]
    options = {"use_dictionary": names, "dictionary_pagesize_limit": DICTIONARY_BYTES}
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
        while group := [*islice(rows, GROUP_ROWS)]:
            writer.write_table(pa.Table.from_pylist(group, schema))


def count_rows(parts: dict[str, list[Thing]]) -> dict[str, Any]:
    """Rows and files of each split, clips by language, and their lengths."""
    things = [thing for part in parts.values() for thing in part]
    clips = [(language, clip) for thing in things for language, clip in thing.clips.items()]
    names = "things", "voices"
    voices = {split: sum(len(thing.clips) for thing in part) for split, part in parts.items()}
    return {
        "rows": {"things": {split: len(part) for split, part in parts.items()}, "voices": voices},
        "files": {name: {split: f"{name}/{split}-*.parquet" for split in parts} for name in names},
        "clips": dict(Counter(language for language, _ in clips).most_common()),
        "text_languages": len({language for thing in things for language in thing.texts}),
        "seconds": _lengths([clip.seconds for _, clip in clips]),
    }


def _lengths(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {"total": 0.0}
    median, p99, longest = np.quantile(seconds, (0.5, 0.99, 1)).round(2).tolist()
    total = round(sum(seconds), 1)
    return {"median": median, "p99": p99, "longest": longest, "total": total}
