"""COCO's captions, and Karpathy's splits of COCO, Flickr8k and Flickr30k: a row an image.

Lin et al. 2015, arXiv 1504.00325; Karpathy & Fei-Fei 2015, arXiv 1412.2306.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.arrow import SkippedNames, converted_table
from edge_lib.sources.entries import encodable
from edge_lib.sources.files import path_of_split, read_json
from edge_lib.sources.paths import resolve_paths
from edge_lib.sources.select import SPLIT_BY, TEXTS
from edge_lib.sources.split import held_out

KEY = "data.coco"
# restval is the part of COCO's val2014 that is left over from Karpathy's val and test
KARPATHY = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}
SCHEMA = pa.schema([("id", pa.string()), ("image", pa.string()), ("texts", TEXTS)])
SAMPLE = 100  # files that are looked up


def load(config: DataConfig, split: str) -> Table:
    """The images of a split."""
    files, folders = map(_by_split, (config.coco.annotations, config.coco.images))
    file = path_of_split(files, split, f"{KEY}.annotations")
    folder = path_of_split(folders, split, f"{KEY}.images")
    taken = held_out(config.split) if config.split else []
    shared = [name for name in files if files[name] == file and name not in (split, *taken)]
    by = config.split.by if config.split else None
    facts = {"split": split, "taken": taken, "shared": shared, "by": by}
    convert = partial(_convert, file, folder, **facts)
    return converted_table(f"coco {split}", [file], config.cache_dir, facts, convert, folder)


def _by_split(paths: Path | dict[str, Path]) -> dict[str, Path]:
    return paths if isinstance(paths, dict) else dict.fromkeys(KARPATHY, paths)


def _convert(
    file: Path,
    folder: Path,
    skipped: SkippedNames,
    split: str,
    taken: list[str],
    shared: list[str],
    by: str | None,
) -> Iterator[pa.Table]:
    content = read_json(file, f"{KEY}.annotations")
    images = content.get("images") if isinstance(content, dict) else None
    if not images or not isinstance(images, list):
        raise ConfigError(f"{file} has no images: it is neither COCO's captions nor Karpathy's")
    images = _objects(images, "image", skipped)
    karpathy = any("sentences" in image for image in images)
    if karpathy and taken:
        raise ConfigError(f"{file} has a split {taken[0]!r}; leave out data.split.{taken[0]}")
    if shared and not karpathy:
        raise ConfigError(
            f"{KEY}.annotations: {file} has one split, but is named for {split} and {shared[0]}; "
            f"name another file, or set data.split.{shared[0]}"
        )
    if karpathy:
        rows = _karpathy_rows(images, split, folder, skipped)
    else:
        rows = _rows(images, content.get("annotations"), file, skipped)
    yield resolve_paths(_table([*rows], by, file), [folder], file)


def _table(rows: list[dict], by: str | None, file: Path) -> pa.Table:
    table = pa.Table.from_pylist(rows, SCHEMA)
    if not by:
        return table
    if rows and not any(by in row for row in rows):
        available = ", ".join(name for name in rows[0] if name not in SCHEMA.names)
        raise ConfigError(f"{file}: no image has {by!r}; they have {available}")
    values = [None if row.get(by) is None else str(row[by]) for row in rows]
    return table.append_column(SPLIT_BY, [values])


def _rows(
    images: list[dict], annotations: object, file: Path, skipped: SkippedNames
) -> Iterator[dict]:
    """The rows of captions_*.json."""
    captions, rows = defaultdict(list), {}
    for annotation in _objects(annotations, "annotation", skipped):
        captions[str(annotation.get("image_id"))].append(annotation.get("caption"))
    if not captions:
        raise ConfigError(f"{file} has no annotations: an image_info file has no captions")
    for image in images:
        number = str(image.get("id"))
        if number in rows:
            skipped["an image with the id of another"].append(f"{image.get('file_name')}")
        else:
            rows[number] = _row(image, number, image.get("file_name"), captions[number], skipped)
    yield from rows.values()
    skipped["a caption of an image that is not listed"] += sorted({*captions} - {*rows})


def _karpathy_rows(
    images: list[dict], split: str, folder: Path, skipped: SkippedNames
) -> Iterator[dict]:
    """The rows of dataset_*.json. COCO's images are in the folders of 2014, or all in one."""
    nested = any(Path(folder, _nested(image)).is_file() for image in images[:SAMPLE])
    for number, image in enumerate(images):
        if image.get("split") in KARPATHY[split]:
            name = image.get("filename") and _nested(image) if nested else image.get("filename")
            sentences = _listed(image.get("sentences"))
            texts = [s.get("raw") if isinstance(s, dict) else None for s in sentences]
            stem = Path(str(name or f"image {number}")).stem
            yield _row(image, stem, name, texts, skipped)


def _objects(entries: object, kind: str, skipped: SkippedNames) -> list[dict]:
    """The objects in a list; others are named by their number."""
    odd = [n for n, entry in enumerate(_listed(entries)) if not isinstance(entry, dict)]
    skipped["not an object"] += [f"{kind} {n}" for n in odd]
    return [entry for entry in _listed(entries) if isinstance(entry, dict)]


def _listed(entries: object) -> list:
    return entries if isinstance(entries, list) else []


def _row(image: dict, name: str, file: object, texts: list, skipped: SkippedNames) -> dict:
    kept = [encodable(text) for text in texts if isinstance(text, str)]
    if len(kept) < len(texts):
        skipped["a caption that is not a text"].append(name)
    return image | {"id": name, "image": file if isinstance(file, str) else None, "texts": kept}


def _nested(image: dict) -> str:
    return str(Path(str(image.get("filepath") or ""), str(image.get("filename") or "")))
