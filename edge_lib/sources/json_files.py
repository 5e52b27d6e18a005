"""Rows of json and jsonl files, with the named columns as texts and lists of texts."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ConfigError
from edge_lib.data.columns import SCHEMA_TYPES, missing_column
from edge_lib.sources.arrow import SkippedNames
from edge_lib.sources.entries import encodable, json_entries
from edge_lib.sources.select import SEVERAL, SPLIT_BY, TEXTS, Columns

MAX_ROWS = 10_000  # in Python objects at once


def read_json_rows(file: Path, columns: Columns, skipped: SkippedNames) -> Iterator[pa.Table]:
    """All objects, in parts; a field of an object is a column with a dotted name. Entries that are
    not an object, and objects with a value of a wrong type, are skipped.

    Raises ConfigError for a column that no object has, or none with the right type.
    """
    named = {column: name for name in columns for column in columns[name]}
    schema = pa.schema({c: TEXTS if n in SEVERAL else pa.string() for c, n in named.items()})
    entries, checked = enumerate(json_entries(file), 1), False
    while part := list(islice(entries, MAX_ROWS)):
        objects = [entry for _, entry in part if isinstance(entry, dict)]
        if objects and not checked:
            checked = _check(objects, named, file)
        rows = []
        for number, entry in part:
            try:
                rows.append(_row(entry, named))
            except TypeError as error:
                skipped[str(error)].append(f"{file.name}:{number}")
        yield pa.Table.from_pylist(rows, schema)


def json_value(value: object, name: str) -> object:
    """What stands under a key, or a dotted name; in a list, what stands there in each item."""
    if isinstance(value, list):
        return [json_value(item, name) for item in value]
    if not isinstance(value, dict) or name in value:
        return value[name] if isinstance(value, dict) else None
    parent, dot, field = name.rpartition(".")
    return json_value(json_value(value, parent), field) if dot else None


def _check(objects: Sequence[dict], named: dict[str, str], file: Path) -> bool:
    problems = [_problem(objects, column, name) for column, name in named.items()]
    if lines := [f"{file}: {problem}" for problem in problems if problem]:
        raise ConfigError("\n".join(lines))
    return True


def _problem(objects: Sequence[dict], column: str, name: str) -> str | None:
    """Why none of the objects has a usable value in a column; None if one has, or may be null."""
    values = [v for entry in objects if (v := json_value(entry, column)) is not None]
    if not values and not any(column in entry for entry in objects):
        return missing_column(column, dict.fromkeys(key for entry in objects for key in entry))
    if not values or any(FORMS[name](value) is not None for value in values):
        return None
    first = values[0][0] if isinstance(values[0], list) and values[0] else values[0]
    first = first if isinstance(first, dict) else {}
    fields = ", ".join(f"{column}.{field}" for field in first)
    return _wrong_type(values[0], column, name) + (f"; name a field of it: {fields}" * bool(fields))


def _row(entry: object, named: dict[str, str]) -> dict:
    """The named columns of an entry. TypeError with the reason if it is not usable."""
    if not isinstance(entry, dict):
        raise TypeError("not a JSON object")
    row = {}
    for column, name in named.items():
        value = json_value(entry, column)
        row[column] = None if value is None else FORMS[name](value)
        if row[column] is None and value is not None:
            raise TypeError(_wrong_type(value, column, name))
    return row


def _wrong_type(value: object, column: str, name: str) -> str:
    taken = SCHEMA_TYPES["id" if name == SPLIT_BY else name][1]
    return f"column {column!r} is {type(value).__name__}; {name} takes {taken}"


def _text(value: object) -> str | None:
    return encodable(value) if isinstance(value, str) else None


def _list(value: object, form: Callable = _text) -> list[str | None] | None:
    values = value if isinstance(value, list) else [value]
    texts = [form(value) for value in values]
    return None if any(t is None is not v for t, v in zip(texts, values, strict=True)) else texts


def _file(value: object) -> str | None:
    is_file = isinstance(value, dict) and "path" in value
    return _text(value["path"] or "" if is_file else value)


def _key(value: object) -> str | None:
    return encodable(str(value)) if isinstance(value, str | int | float) else None


FORMS = {
    "image": _file,
    "audio": _file,
    "texts": _list,
    "question": _text,
    "answers": partial(_list, form=_key),
    "kind": _key,
    "url": _text,
    "caption": _text,
    "id": _key,
    "image_id": _key,
    SPLIT_BY: _key,
}
