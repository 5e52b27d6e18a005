"""Columns of users' files, selected under the names of the table's schema."""

import json
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features

from edge_lib.config import ConfigError
from edge_lib.config.base import Section
from edge_lib.data.columns import check_columns, is_list
from edge_lib.data.stored import label_names, valid_texts
from edge_lib.data.texts import refuse_json

MEDIA = ("image", "audio")
SPLIT_BY = "split_by"  # the column that data.split.by names
KEYS = {
    "image": "image_column",
    "audio": "audio_column",
    "texts": "caption_column",
    "question": "question_column",
    "answers": "answer_column",
    "kind": "kind_column",
    "id": "id_column",
    "image_id": "image_id_column",
}
SEVERAL = ("texts", "answers")  # lists of texts, which several columns may hold
TEXTS = pa.list_(pa.string())
LIST = r"^\s*\[\s*([\"'].*[\"']\s*)?\]\s*$"  # a list of texts, as JSON or Python writes it

Columns = Mapping[str, list[str]]  # name in the schema -> columns, or fields, of a file


def named_columns(section: Section, by: str | None = None) -> Columns:
    """The columns that a section of the config names, and the one that data.split.by names."""
    columns = {name: getattr(section, key, None) for name, key in KEYS.items()} | {SPLIT_BY: by}
    return {
        name: [column] if isinstance(column, str) else column
        for name, column in columns.items()
        if column
    }


def check_named(schema: pa.Schema | Features, columns: Columns, where: object) -> None:
    """ConfigError for each column that is missing or has a wrong type."""
    problems = []
    for name, several in columns.items():
        for column in several:
            if [*schema].count(column) > 1 or getattr(schema, "names", []).count(column) > 1:
                problems.append(f"{where}: several columns are called {column!r}")
                continue
            try:
                check_columns(schema, {"id" if name == SPLIT_BY else name: column}, where)
            except ConfigError as error:
                problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def select_columns(table: pa.Table, columns: Columns, where: object) -> pa.Table:
    """The named columns: pictures and sounds as they are, captions as lists, the rest as texts."""
    selected = {}
    for name, several in columns.items():
        values = [valid_texts(column_values(table, column)) for column in several]
        if name in SEVERAL:
            lists = [*map(_as_lists, values, (f"{where}: column {c!r}" for c in several))]
            chunks = pa.chunked_array([chunk for column in lists for chunk in column.chunks], TEXTS)
            rows = np.tile(np.arange(len(table)), len(several))
            selected[name] = lists[0] if len(lists) == 1 else group_lists(chunks, rows)
        else:
            empty = pa.types.is_null(values[0].type)
            keep = name in MEDIA and not empty
            selected[name] = values[0] if keep else values[0].cast(pa.string())
    return pa.table(selected)


def column_values(table: pa.Table, column: str) -> pa.ChunkedArray:
    """A column, or the field that a dotted name stands for; labels as their names."""
    if column not in table.column_names:
        parent, _, field = column.rpartition(".")
        return pa.chunked_array(
            [_field(part, field) for part in column_values(table, parent).chunks]
        )
    values, label = table[column], _features(table.schema).get(column)
    if not isinstance(label, ClassLabel):
        return values
    names = [name.replace("_", " ") for name in label.names]
    return pa.chunked_array([label_names(chunk, names) for chunk in values.chunks], pa.string())


def _field(values: pa.Array, name: str) -> pa.Array:
    """A field of structs, or of the structs in lists."""
    if not is_list(values.type):
        return pc.struct_field(values, name)
    values = values.cast(pa.list_(values.type.value_type))
    return pa.ListArray.from_arrays(values.offsets, pc.struct_field(values.values, name))


def _features(schema: pa.Schema) -> Mapping:
    described = b"huggingface" in (schema.metadata or {})
    return Features.from_arrow_schema(schema) if described else {}


def group_lists(lists: pa.ChunkedArray, numbers: np.ndarray) -> pa.ListArray:
    """(M,) the lists of each of M numbers, joined. numbers: (N,) of each list, 0 to M - 1."""
    large = pa.list_(pa.large_string())  # all texts may be more than 2 GB
    chunks = [chunk.cast(large) for chunk in lists.chunks]
    ordered = pa.concat_arrays(chunks).take(pa.array(np.argsort(numbers, kind="stable")))
    offsets = ordered.offsets.take(pa.array(np.r_[0, np.cumsum(np.bincount(numbers))]))
    return pa.ListArray.from_arrays(offsets, ordered.values)


def _as_lists(column: pa.ChunkedArray, where: object) -> pa.ChunkedArray:
    if is_list(column.type):
        return column.cast(TEXTS)
    texts = column.cast(pa.string())
    filled = texts.filter(pc.not_equal(pc.utf8_trim_whitespace(texts), ""))
    are_lists = pc.match_substring_regex(filled, LIST)
    if pc.any(are_lists).as_py():
        refuse = pc.all(are_lists).as_py()  # else one may be a caption in brackets and quotes
        lists = [_parse(text, where, refuse) for text in texts.to_pylist()]
        return pa.chunked_array([lists], TEXTS)
    refuse_json(texts, where)
    parts = [pa.ListArray.from_arrays(np.arange(len(p) + 1), p) for p in texts.chunks]
    return pa.chunked_array(parts, TEXTS)


def _parse(text: str | None, where: object, refuse: bool) -> list[str | None]:
    """The captions that one text stands for. ConfigError for a list that is not JSON; it is a
    caption itself unless `refuse`.
    """
    if text is None or not re.match(LIST, text):
        return [text]
    try:
        values = json.loads(text)
        return [value for value in values if isinstance(value, str)]
    except ValueError:
        if not refuse:
            return [text]
        raise ConfigError(f"{where}: a list of captions must be JSON, not {text[:60]}") from None
