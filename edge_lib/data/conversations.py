"""Tables of conversations: about scenes, LLaVA's, or ready in Parquet; instructions after them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets

from edge_lib.config import ConfigError
from edge_lib.config.vlm import ConversationsConfig
from edge_lib.data import questions, scene_chats, scene_table, scenes, speech
from edge_lib.data.parquet import made_once, matching, read_parquet, version_of
from edge_lib.data.table import Table, fingerprint_files
from edge_lib.data.turns import PLACEHOLDERS

KEY = "data.conversations"
SPEAKERS = {"system": "system", "human": "user", "gpt": "assistant"}  # LLaVA's
INSTRUCTED = {"system_prompt": "system", "question": "user", "response": "assistant"}  # Open-Orca's
NO_PICTURE = ""  # image_id of every row without a picture: one item that cannot be encoded


def load_conversations(config: ConversationsConfig, cache_dir: Path, split: str) -> Table:
    """The conversations of train, val or test, and after them that split's instructions.

    ConfigError, with the key and the path, for a file that is not there or not such a file.
    """
    table = LOADERS[config.source](config, cache_dir, split)
    patterns = config.instructions.files.get(split, []) if config.instructions else []
    key = f"{KEY}.instructions.files.{split}"
    files = [path for pattern in patterns for path in matching(pattern, key)]
    if not files:
        return table
    rows = Dataset.from_list([row for path in files for row in _instructions(path, key)])
    both = concatenate_datasets([table.dataset, rows])
    return Table(both, f"{table.name} +", fingerprint_files(files, table.fingerprint))


def _load_scenes(config: ConversationsConfig, cache_dir: Path, split: str) -> Table:
    own = config.model_copy(update={"instructions": None})
    version = version_of(own, scenes, questions, scene_table, speech, scene_chats)
    path = cache_dir / f"conversations-{version}" / f"{split}.parquet"
    rows = scene_chats.scene_conversations
    return made_once(path, lambda: rows(config, split), f"conversations {split}")


def _load_llava(config: ConversationsConfig, cache_dir: Path, split: str) -> Table:
    """LLaVA's json (Liu et al. 2023, arXiv 2304.08485); images are read when they are asked for."""
    source, key = config.llava, f"{KEY}.llava"
    if split not in source.files:
        raise ConfigError(f"{key}.files has no {split!r}, only {sorted(source.files)}")
    path = source.files[split]
    if not path.is_file():
        raise ConfigError(f"{key}.files.{split}: no such file {path}")
    if not source.images.is_dir():
        raise ConfigError(f"{key}.images: no such folder {source.images}")
    try:
        found = [*_llava_rows(json.loads(path.read_text()), source.images)]
        rows = Dataset.from_list(found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{key}.files.{split}: {path} is not LLaVA's json: {error!r}") from None
    # an image that is there by now, or is another, must be encoded anew
    images = map(_stamp, sorted({row["image"]["path"] for row in found if row["image"]}))
    return Table(rows, f"llava {split}", fingerprint_files([path], str(source.images), *images))


def _load_parquet(config: ConversationsConfig, cache_dir: Path, split: str) -> Table:
    """Rows of the one-table schema; of its columns `turns` has to be there."""
    key = f"{KEY}.parquet"
    if split not in config.parquet:
        raise ConfigError(f"{key} has no {split!r}, only {sorted(config.parquet)}")
    files = [path for pattern in config.parquet[split] for path in matching(pattern, key)]
    table = read_parquet(files, f"conversations {split}", cache_dir, {})
    if "turns" not in table.dataset.column_names:
        raise ConfigError(f"{files[0]} has no column 'turns'; it has {table.dataset.column_names}")
    return table


def _stamp(path: str) -> str:
    """A file's size and time; nothing where it is not there."""
    try:
        stat = os.stat(path)
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _llava_rows(entries: list[dict], folder: Path) -> Iterator[dict]:
    """A row each, with the first of its images; then a row for each image that is no row's first.

    Rows about one image share it by its path.
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
            "id": f"{entry.get('id', 'llava')}-{number}",  # theirs come more than once
            **_picture(folder, *names[:1]),
            "turns": _llava_turns(entry.get("conversations") or [], len(names)),
            "image_ids": names if len(names) > 1 else None,
            "kind": "llava",
        }
    yield from ({"id": name, **_picture(folder, name)} for name in sorted(others - first))


def _picture(folder: Path, name: str | None = None) -> dict:
    cell = {"bytes": None, "path": str(folder / name)} if name else None
    return {"image_id": name or NO_PICTURE, "image": cell}


def _llava_turns(said: list[dict], images: int) -> list[dict]:
    """As role and content; some of theirs are about an image but do not say where it comes."""
    turns = [{"role": SPEAKERS.get(t.get("from")), "content": t.get("value")} for t in said]
    asked = [turn for turn in turns if turn["role"] == "user" and turn["content"]]
    mark = PLACEHOLDERS["image"]
    if images == 1 and asked and not any(mark in turn["content"] for turn in asked):
        asked[0]["content"] = f"{mark}\n{asked[0]['content']}"
    return turns


def _instructions(path: Path, key: str) -> Iterator[dict]:
    """Open-Orca's rows, Parquet or one json object a line; a system prompt may be empty."""
    try:
        rows = _json_lines(path) if path.suffix == ".jsonl" else pq.read_table(path).to_pylist()
        if missing := {"question", "response"} - set().union(*rows):
            raise KeyError(*sorted(missing))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{key}: {path} is not Open-Orca's: {error!r}") from None
    for number, row in enumerate(rows):
        turns = [{"role": role, "content": row.get(name)} for name, role in INSTRUCTED.items()]
        yield {
            "id": f"{path.stem}-{number}",
            "image_id": NO_PICTURE,
            "turns": turns if (turns[0]["content"] or "").strip() else turns[1:],
            "kind": "instruction",
        }


def _json_lines(path: Path) -> list[dict]:
    with path.open() as file:
        return [json.loads(line) for line in file if line.strip()]


LOADERS = {"scenes": _load_scenes, "llava": _load_llava, "parquet": _load_parquet}
