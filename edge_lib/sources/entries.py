"""Entries of json, jsonl and Parquet files, one at a time."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.config import ConfigError
from edge_lib.sources.parsed import SkippedEntry

LINES = {".jsonl", ".ndjson"}
BATCH_ROWS = 64  # of Parquet, with their images


def read_entries(
    path: Path, key: str, choose_columns: Callable[[pa.Schema], Sequence[str]]
) -> Iterator[object]:
    """The entries of a file: the items of a JSON list or of the only list in a JSON object, a
    JSON object alone, the lines of jsonl, or the rows of Parquet. A line that is not JSON is a
    SkippedEntry.

    choose_columns: the schema of a Parquet file -> the columns to read, or a ConfigError. Raises
    ConfigError for a file of another format.
    """
    with path.open("rb") as file:
        is_parquet = path.suffix == ".parquet" or file.read(4) == b"PAR1"
    if is_parquet:
        return _parquet_rows(path, key, choose_columns)
    try:
        head = list(islice(_lines(path), 2))
    except OSError as error:  # of a compressed file
        raise ConfigError(f"{key}: {path}: {error}") from None
    if not head:
        return iter(())
    is_document = len(head) < 2 or head[0].strip() in (b"[", b"{")
    is_lines = not LINES.isdisjoint(path.suffixes) or isinstance(_parse(head[0]), dict | list)
    return map(_parse, _lines(path)) if is_lines and not is_document else _json_items(path, key)


def encodable(text: str) -> str:
    """A text without lone surrogates, which cut emojis leave in JSON and UTF-8 cannot hold."""
    return text.encode(errors="replace").decode()


def _open(path: Path) -> io.BufferedReader:
    """A file, decompressed if its name ends in .gz, .bz2, .zst, ..."""
    return io.BufferedReader(pa.input_stream(path, compression="detect"))


def _lines(path: Path) -> Iterator[bytes]:
    with _open(path) as file:
        yield from filter(bytes.strip, file)


def _parse(line: bytes) -> object:
    try:
        return json.loads(line)  # takes a byte order mark
    except ValueError:
        return SkippedEntry("", "not JSON")


def _json_items(path: Path, key: str) -> Iterator[object]:
    try:
        with _open(path) as file:
            content = json.loads(file.read())
    except ValueError as error:
        raise ConfigError(f"{key}: {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        return iter(content if isinstance(content, list) else [content])
    lists = [value for value in content.values() if isinstance(value, list)]
    return iter([content] if len(lists) != 1 or _are_turns(lists[0]) else lists[0])


def _are_turns(items: list) -> bool:
    """Whether a list holds the turns of one conversation, not conversations."""
    return any(isinstance(item, dict) and item.keys() & {"role", "from"} for item in items)


def _parquet_rows(path: Path, key: str, choose_columns: Callable) -> Iterator[object]:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(f"{key}: {path} is not a Parquet file: {error}") from None
    try:
        columns = [*choose_columns(file.schema_arrow)]
    except ConfigError as error:
        raise ConfigError(f"{key}: {path} has {error}") from None
    for batch in file.iter_batches(BATCH_ROWS, columns=columns):
        yield from batch.to_pylist()
