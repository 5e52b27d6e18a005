"""json and jsonl files: a list of objects, or an object in each line."""

import io
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ConfigError
from edge_lib.sources.arrow import Skipped
from edge_lib.sources.parquet import column_of
from edge_lib.sources.select import SPLIT_BY, Columns

LINES = {".jsonl", ".ndjson"}
MAX_ROWS = 50_000  # in Python objects at once


def read_json_rows(file: Path, columns: Columns, skipped: Skipped) -> Iterator[pa.Table]:
    """All objects, in parts, with the columns that are named; others are null. Lines that are not
    an object, and objects with a value of another type than most have, are skipped.
    """
    rows = iter(_lines(file) if LINES & {*file.suffixes} else enumerate(_objects(file), 1))
    while part := list(islice(rows, MAX_ROWS)):
        objects = {f"{file.name}:{number}": row for number, row in part if isinstance(row, dict)}
        broken = [f"{file.name}:{number}" for number, row in part if not isinstance(row, dict)]
        skipped["not a JSON object"] += broken
        if objects:
            yield _table(objects, columns, skipped)


def _lines(file: Path) -> Iterator[tuple[int, object]]:
    """Number and content of each line that is not blank; None if it is not JSON."""
    with pa.input_stream(file, compression="detect") as stream:
        for number, line in enumerate(io.TextIOWrapper(stream, "utf-8-sig", errors="replace"), 1):
            if line.strip():
                yield number, parse_json(line)


def parse_json(text: str) -> object:
    """The content of a text; None if it is not JSON."""
    try:
        content = json.loads(text)
        # half an emoji, as cut texts have it, cannot be UTF-8
        halves = "\\ud" in text.lower()
        whole = json.dumps(content, ensure_ascii=False).encode(errors="replace") if halves else ""
        return json.loads(whole) if halves else content
    except ValueError:
        return None


def _objects(file: Path) -> list:
    """The list that a JSON file is, or that is the only list of objects in it."""
    with pa.input_stream(file, compression="detect") as stream:
        content = parse_json(stream.read().decode("utf-8-sig", errors="replace"))
    values = content.values() if isinstance(content, dict) else [content]
    lists = [value for value in values if isinstance(value, list) and _is_rows(value)]
    if len(lists) != 1:
        raise ConfigError(f"{file} is not a JSON list of objects")
    return lists[0]


def _is_rows(values: list) -> bool:
    return any(isinstance(value, dict) for value in values)


def _table(objects: dict[str, dict], columns: Columns, skipped: Skipped) -> pa.Table:
    keys = list(dict.fromkeys(key for row in objects.values() for key in row))
    named = {column_of(column, keys): name for name in columns for column in columns[name]}
    values = {
        key: [_normal(row.get(key), name) for row in objects.values()]
        for key, name in named.items()
        if key in keys
    }
    odd = set().union(*map(_odd_rows, values.values()))
    skipped["a value of another type than most"] += [[*objects][row] for row in sorted(odd)]
    kept = [row for row in range(len(objects)) if row not in odd]
    arrays = {key: pa.array([column[row] for row in kept]) for key, column in values.items()}
    return pa.table({key: arrays.get(key, pa.nulls(len(kept))) for key in keys})


def _normal(value, name: str):
    """Captions as lists, ids as texts."""
    if name == "texts" and isinstance(value, str):
        return [value]
    return str(value) if name in ("id", SPLIT_BY) and isinstance(value, int) else value


def _odd_rows(values: list) -> set[int]:
    """Numbers of the values whose type is not that of most."""
    kinds = list(map(_kind, values))
    counts = Counter(kind for kind in kinds if kind)
    (most, _), *_ = counts.most_common(1) or [(None, 0)]
    return {row for row, kind in enumerate(kinds) if kind not in (None, most)}


def _kind(value) -> object:
    """The type of a value, with those of a list's items; None for a null and an empty list."""
    if isinstance(value, list):
        return (list, frozenset(filter(None, map(_kind, value)))) if value else None
    return None if value is None else type(value)
