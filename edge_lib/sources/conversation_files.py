"""Tables of conversations from json, jsonl and Parquet files, with whatever keys they have."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ConfigError
from edge_lib.data.table import Table
from edge_lib.sources.conversation_entries import Columns, turn_keys
from edge_lib.sources.conversation_rows import COLUMNS, EXTRA, ConversationRows
from edge_lib.sources.entries import encodable, read_entries
from edge_lib.sources.parsed import SkippedEntry, parsed_table

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
