"""The types of a table's columns, checked when its files are opened, and fields of structs.

A dotted name, `captions.long`, is the field of a struct, or of each struct in a list; a column that
is itself called so comes first.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches

import pyarrow as pa
from datasets import ClassLabel, Features
from pyarrow import types

from edge_lib.config import ConfigError

Schema = Features | pa.Schema


def is_text(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return is_text(kind.value_type)
    return any(f(kind) for f in (types.is_string, types.is_large_string, types.is_string_view))


def is_bytes(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return is_bytes(kind.value_type)
    return any(f(kind) for f in (types.is_binary, types.is_large_binary, types.is_binary_view))


def is_list(kind: pa.DataType) -> bool:
    return any(f(kind) for f in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def _is_key(kind: pa.DataType) -> bool:
    return is_text(kind) or types.is_integer(kind)


def _list_of(check: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: is_list(kind) and _null_or(check)(kind.value_type)


def _null_or(check: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: types.is_null(kind) or check(kind)


def _is_texts(kind: pa.DataType) -> bool:
    return is_text(kind) or _list_of(is_text)(kind)


def _fields(kind: pa.DataType) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in kind} if types.is_struct(kind) else {}


def _is_file(kind: pa.DataType) -> bool:
    """Bytes, a text, or a struct with `bytes` or `path`."""
    fields, checks = _fields(kind), {"bytes": is_bytes, "path": is_text}
    checks |= {"offset": types.is_integer, "size": types.is_integer}
    named = [_null_or(check)(fields[name]) for name, check in checks.items() if name in fields]
    is_struct = bool(fields.keys() & {"bytes", "path"}) and all(named)
    return is_bytes(kind) or is_text(kind) or is_struct


def _is_turn(kind: pa.DataType) -> bool:
    fields = _fields(kind)
    return all(name in fields and _null_or(is_text)(fields[name]) for name in ("role", "content"))


FILE = "bytes, text (a path or data URI), {bytes, path} or {path, offset, size}"
KEY, TEXTS = "text or whole numbers", "text or lists of texts"
SCHEMA_TYPES: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "id": (_is_key, KEY),
    "image": (_is_file, FILE),
    "texts": (_is_texts, TEXTS),
    "audio": (_is_file, FILE),
    "question": (is_text, "text"),
    "answers": (_is_texts, TEXTS),
    "kind": (is_text, "text"),
    "group": (_is_key, KEY),
    "image_id": (_is_key, KEY),
    "turns": (_list_of(_is_turn), "lists of {role, content}, both text"),
    "image_ids": (_list_of(_is_key), "lists of texts or whole numbers"),
    "url": (is_text, "text"),
    "caption": (is_text, "text"),
}


def check_columns(schema: Schema, names: Mapping[str, str], where: object) -> None:
    """ConfigError with a line for each column that is missing or has a wrong type.

    names: name in `data.table.SCHEMA` -> column, or dotted field, of the file. where: the file.
    """
    problems = [_problem(schema, *pair) for pair in names.items()]
    if lines := [f"{where}: {problem}" for problem in problems if problem]:
        raise ConfigError("\n".join(lines))


def _problem(schema: Schema, name: str, column: str) -> str | None:
    available = arrow_types(schema)
    kind = column_type(available, column)
    if kind is None:
        fields = [f"{name}.{field}" for name in available for field in _fields(available[name])]
        return missing_column(column, available, fields)
    check, taken = SCHEMA_TYPES[name]
    if _null_or(check)(kind):
        return None
    struct = kind.value_type if is_list(kind) else kind
    fields = [f"{column}.{f}" for f, t in _fields(struct).items() if _null_or(check)(t)]
    hint = f"; name a field of it: {', '.join(fields)}" if fields else ""
    return f"column {column!r} is {kind}; {name} takes {taken}{hint}"


def missing_column(column: str, names: Collection[str], fields: Iterable[str] = ()) -> str:
    """An error for a column that is not there. fields: dotted names that it may have meant."""
    known = {name.lower(): name for name in [*fields, *names]}
    close = get_close_matches(column.lower(), known, n=1)
    hint = f" (did you mean {known[close[0]]!r}?)" if close else ""
    first, more = [*map(repr, names)][:10], len(names) - 10
    listed = ", ".join(first) + (f", and {more} more" if more > 0 else "")
    return f"no column {column!r}{hint}; it has {listed}"


def column_type(kinds: Mapping[str, pa.DataType], column: str) -> pa.DataType | None:
    """The type of a column or dotted field; None if there is none."""
    if column in kinds:
        return kinds[column]
    parent, dot, field = column.rpartition(".")
    kind = column_type(kinds, parent) if dot else None
    if kind is not None and is_list(kind):
        inner = _fields(kind.value_type).get(field)
        return pa.list_(inner) if inner is not None else None
    return _fields(kind).get(field) if kind is not None else None


def arrow_types(schema: Schema) -> dict[str, pa.DataType]:
    """The type of each column; that of labels, which are stored as numbers, is a dictionary."""
    if isinstance(schema, pa.Schema):
        if b"huggingface" not in (schema.metadata or {}):
            return {field.name: field.type for field in schema}
        schema = Features.from_arrow_schema(schema)
    label = pa.dictionary(pa.int64(), pa.string())
    return {
        name: label if isinstance(schema[name], ClassLabel) else kind
        for name, kind in zip(schema, schema.arrow_schema.types, strict=True)
    }


def check_shards(schemas: Mapping[object, Schema], columns: Iterable[str] | None = None) -> None:
    """ConfigError that names two files in which a column has different types, or one lacks it.

    schemas: file -> its schema. columns: all by default. Variants of one type, as `string` and
    `large_string`, agree, and nulls agree with any; `pyarrow.unify_schemas` with
    promote_options="permissive" then gives their common types.
    """
    kinds = {file: arrow_types(schema) for file, schema in schemas.items()}
    union = dict.fromkeys(column for part in kinds.values() for column in part)
    for column in union if columns is None else columns:
        shards = [(file, column_type(part, column)) for file, part in kinds.items()]
        # nulls agree with all others, which may still disagree with one another
        shards.sort(key=lambda shard: shard[1] is not None and types.is_null(shard[1]))
        (first, expected), *others = shards
        for file, kind in others:
            if not _agree(expected, kind):
                raise ConfigError(
                    f"{first} and {file} disagree: column {column!r} is {expected or 'missing'} "
                    f"in the first, {kind or 'missing'} in the second"
                )


def _agree(one: pa.DataType | None, other: pa.DataType | None) -> bool:
    """Whether two types hold the same kind of value."""
    if one is None or other is None:
        return one is other
    if one == other or types.is_null(one) or types.is_null(other):
        return True
    if is_list(one) and is_list(other):
        return _agree(one.value_type, other.value_type)
    if types.is_struct(one) and types.is_struct(other):
        a, b = _fields(one), _fields(other)
        return a.keys() == b.keys() and all(_agree(a[name], b[name]) for name in a)
    same = is_text, is_bytes, types.is_integer, types.is_floating
    return any(check(one) and check(other) for check in same)
