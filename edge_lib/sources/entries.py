"""Entries of json, jsonl and Parquet files, one at a time."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ConfigError
from edge_lib.sources.files import open_decompressed
from edge_lib.sources.parquet import is_parquet, open_parquet, read_batches
from edge_lib.sources.parsed import SkippedEntry

LINES = {".jsonl", ".ndjson"}
BATCH_ROWS = 64  # of Parquet, with their images
_loads = partial(json.loads, parse_constant=lambda _: None)  # NaN, as pandas has it, is a null


def read_entries(path: Path, choose_columns: Callable[[pa.Schema], list[str]]) -> Iterator[object]:
    """The entries of a json or jsonl file, or the rows of Parquet.

    choose_columns: the schema of a Parquet file -> the columns to read. Raises ConfigError for a
    file that is damaged.
    """
    if not is_parquet(path):
        yield from json_entries(path)
        return
    with open_parquet(path) as file:
        columns = choose_columns(file.schema_arrow)
        for batch in read_batches(file, path, BATCH_ROWS, columns):
            yield from batch_rows(batch)


def batch_rows(batch: pa.RecordBatch) -> list[dict | SkippedEntry]:
    """The rows of a batch; a SkippedEntry for one with a text that is not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if len(batch) == 1:
            return [SkippedEntry("", "not UTF-8")]
    return [row for n in range(len(batch)) for row in batch_rows(batch.slice(n, 1))]


def json_entries(path: Path) -> Iterator[object]:
    """The items of a JSON list or of the only list of objects in a JSON object, a JSON object
    alone, or the lines of jsonl. A line that is not JSON is a SkippedEntry.

    Raises ConfigError for a file of another format.
    """
    head = list(islice(_lines(path), 2))
    return map(parse_json, _lines(path)) if head and _are_lines(head, path) else _items(path)


def encodable(text: str) -> str:
    """A text without lone surrogates, which cut emojis leave in JSON and UTF-8 cannot hold."""
    return text.encode(errors="replace").decode()


def _lines(path: Path) -> Iterator[bytes]:
    with open_decompressed(path) as file:
        yield from filter(bytes.strip, file)


def _are_lines(head: list[bytes], path: Path) -> bool:
    """Whether each line is an entry, by the first two."""
    first, several = parse_json(head[0]), len(head) > 1
    if LINES.isdisjoint(path.suffixes):
        return several and isinstance(first, dict | list)
    return isinstance(first, dict) or (several and head[0].strip() not in (b"[", b"{"))


def parse_json(line: bytes) -> object:
    """The content of a line or file; a SkippedEntry if it is not JSON."""
    try:
        return _loads(line)  # takes a byte order mark
    except (ValueError, RecursionError):
        return SkippedEntry("", "not JSON")


def _items(path: Path) -> Iterator[object]:
    with open_decompressed(path) as file:
        text = file.read()
    try:
        content = _loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        return iter(content if isinstance(content, list) else [content])
    lists = [value for value in content.values() if isinstance(value, list)]
    lists = [items for items in lists if any(isinstance(item, dict) for item in items)] or lists
    return iter([content] if len(lists) != 1 or _are_turns(lists[0]) else lists[0])


def _are_turns(items: list) -> bool:
    """Whether a list holds the turns of one conversation, not conversations."""
    return any(isinstance(item, dict) and item.keys() & {"role", "from"} for item in items)
