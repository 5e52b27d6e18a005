"""Conversations in LLaVA's json (Liu et al. 2023, arXiv 2304.08485), images in a folder."""

from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.conversations import NO_IMAGE
from edge_lib.data.messages import PLACEHOLDERS
from edge_lib.data.table import Table
from edge_lib.sources.files import file_stamp, fingerprint_files, path_of_split, read_json

KEY = "data.conversations.llava"
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}


def load(config: DataConfig, split: str) -> Table:
    """One row per conversation; image files are read only when an image is decoded."""
    source, key = config.conversations.llava, f"{KEY}.files"
    path = path_of_split(source.files, split, key)
    if not source.images.is_dir():
        raise ConfigError(f"{KEY}.images: no such folder {source.images}")
    try:
        rows = [*_rows(read_json(path, f"{key}.{split}"), source.images)]
        dataset = Dataset.from_list(rows)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{key}.{split}: {path} is not LLaVA's json: {error!r}") from None
    # an image that was added or changed is encoded again
    stamps = map(file_stamp, sorted({row["image"]["path"] for row in rows if row["image"]}))
    fingerprint = fingerprint_files([path], str(source.images), *stamps)
    return Table(dataset, f"llava {split}", fingerprint)


def _rows(entries: list[dict], folder: Path) -> Iterator[dict]:
    """A row for each entry, with the first of its images, then a row for each image that is no
    entry's first. Rows with one image share its path as `image_id`.
    """
    if not any("conversations" in entry for entry in entries):
        raise KeyError("conversations")
    first, others = set(), set()
    for number, entry in enumerate(entries):
        names = entry.get("image") or []
        names = [names] if isinstance(names, str) else names
        first.update(names[:1])
        others.update(names[1:])
        yield {
            "id": f"{entry.get('id', 'llava')}-{number}",  # ids repeat in LLaVA's files
            **_image_columns(folder, *names[:1]),
            "turns": _turns(entry.get("conversations") or [], len(names)),
            "image_ids": names if len(names) > 1 else None,
            "kind": "llava",
        }
    yield from ({"id": name, **_image_columns(folder, name)} for name in sorted(others - first))


def _image_columns(folder: Path, name: str | None = None) -> dict:
    cell = {"bytes": None, "path": str(folder / name)} if name else None
    return {"image_id": name or NO_IMAGE, "image": cell}


def _turns(entries: list[dict], images: int) -> list[dict]:
    """Role and content. Some entries have an image but no `<image>`; the first question gets it."""
    turns = [{"role": ROLES.get(e.get("from")), "content": e.get("value")} for e in entries]
    questions = [turn for turn in turns if turn["role"] == "user" and turn["content"]]
    mark = PLACEHOLDERS["image"]
    if images == 1 and questions and not any(mark in turn["content"] for turn in questions):
        questions[0]["content"] = f"{mark}\n{questions[0]['content']}"
    return turns
