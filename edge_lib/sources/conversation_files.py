"""Tables of conversations from json, jsonl and Parquet files, with whatever keys they have.

LLaVA's json (Liu et al. 2023, arXiv 2304.08485), `messages` as chat models take them, and Parquet
files, also in the columns of `data.table.SCHEMA`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow as pa
from datasets import concatenate_datasets

from edge_lib.config import ROOT, ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.conversation_entries import Columns, turn_keys
from edge_lib.sources.conversation_rows import COLUMNS, EXTRA, ConversationRows
from edge_lib.sources.entries import encodable, read_entries
from edge_lib.sources.files import existing_folder, files_of_split, path_of_split
from edge_lib.sources.parsed import SkippedEntry, parsed_table

KEY = "data.conversations"
TEXT_ONLY = ["id", "image_id", "turns", "kind"]  # the columns that text-only conversations need
FILES = ("image", "images", "audio", "audios", "video", "videos")


@dataclass(frozen=True)
class ConversationFiles:
    """Files of conversations.

    source: the name of the source, and the kind of conversations that have none. key: of the config
    for errors. images: the folder of relative paths; by default each file's own. columns: the key
    of the turns, or role -> key.
    """

    source: str
    files: Sequence[Path]
    key: str
    images: Path | None = None
    columns: Columns = None

    def table(self, split: str, cache_dir: Path) -> Table:
        """An entry that gives no conversation is counted and skipped. Raises ConfigError if none
        does.
        """
        name, facts = f"{self.source} {split}", [self.source, json.dumps(self.columns)]
        source = self._rows, self.files, self.key, cache_dir
        return parsed_table(name, COLUMNS, *source, self.images, facts)

    def _rows(self) -> Iterator[dict | SkippedEntry]:
        rows = ConversationRows(self.source, self.columns)
        try:
            for path in self.files:
                choose = partial(choose_columns, columns=self.columns, where=path)
                entries = _named(read_entries(path, choose), path)
                yield from rows.read(entries, self.images or path.parent)
        except ConfigError as error:
            raise ConfigError(f"{self.key}: {error}") from None
        yield from rows.images()


def load_llava(config: DataConfig, split: str) -> Table:
    """One row per conversation; image files are read only when an image is decoded."""
    source, key = config.conversations.llava, f"{KEY}.llava"
    path = path_of_split(source.files, split, f"{key}.files")
    images = existing_folder(source.images, f"{key}.images")
    files = ConversationFiles("llava", [path], f"{key}.files.{split}", images)
    return files.table(split, config.cache_dir)


def load_messages(config: DataConfig, split: str) -> Table:
    """One row per conversation of the files of a split; paths of images are relative to
    `messages.images`, or to the file.
    """
    source, key = config.conversations.messages, f"{KEY}.messages"
    paths = files_of_split(source.files, split, f"{key}.files")
    images = source.images and existing_folder(source.images, f"{key}.images")
    files = ConversationFiles("messages", paths, f"{key}.files.{split}", images, source.column)
    return files.table(split, config.cache_dir)


def load_parquet(config: DataConfig, split: str) -> Table:
    """One row per row of the files of a split."""
    key = f"{KEY}.parquet"
    paths = files_of_split(config.conversations.parquet, split, key)
    files = ConversationFiles("parquet", paths, f"{key}.{split}", ROOT)
    return files.table(split, config.cache_dir)


def load_instructions(config: DataConfig, split: str) -> Table:
    """One row per instruction (Open-Orca), a question and its response."""
    source, key = config.conversations.instructions, f"{KEY}.instructions.files"
    paths = files_of_split(source.files, split, key)
    columns = {
        "system": source.system_column,
        "user": source.question_column,
        "assistant": source.response_column,
    }
    files = ConversationFiles("instruction", paths, f"{key}.{split}", columns=columns)
    return files.table(split, config.cache_dir)


def add_instructions(table: Table, config: DataConfig, split: str) -> Table:
    """The table, followed by the instructions of the split, if the config names any."""
    section = config.conversations
    if section.source == "instructions" or not (
        section.instructions and section.instructions.files.get(split)
    ):
        return table
    added = load_instructions(config, split)
    both = concatenate_datasets([table.dataset, added.dataset.select_columns(TEXT_ONLY)])
    joined = Table(both, f"{table.name} +", f"{table.fingerprint}-{added.fingerprint}")
    for reason, names in [*table.skipped.items(), *added.skipped.items()]:
        joined.skipped[reason] += names
    return joined


def choose_columns(schema: pa.Schema, columns: Columns, where: object) -> list[str]:
    """The columns of a Parquet file or data set that a conversation may use."""
    keys = turn_keys(columns)
    for names in keys:
        if not set(names) & set(schema.names):
            raise ConfigError(
                f"{where} has no column {' or '.join(map(repr, names))}; it has {schema.names}"
            )
    extra = EXTRA if columns is None else ()
    system = columns.get("system") if isinstance(columns, dict) else "system"
    used = {"id", system, *chain(*keys), *FILES, *extra}
    return [name for name in schema.names if name in used]


def _named(entries: Iterator[object], path: Path) -> Iterator[tuple[str, object]]:
    """Entries with names for their rows. Ids repeat in many files, so a number is added."""
    for number, entry in enumerate(entries):
        name = entry.get("id") if isinstance(entry, dict) else None
        yield encodable(f"{path.stem if name in (None, '') else name}-{number}"), entry
