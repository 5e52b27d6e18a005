"""Choose the columns of a data set and give them their names in `data.table.SCHEMA`."""

import json
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, concatenate_datasets

from edge_lib.config import ConfigError
from edge_lib.data.columns import check_columns, is_list, is_text

PROBED = 5  # first texts of a column, read to tell JSON from plain text


def select_columns(dataset: Dataset, names: Mapping[str, str], where: object) -> Dataset:
    """The named columns, memory-mapped as they were; a struct's fields and labels become columns.

    names: name in `data.table.SCHEMA` -> column, or dotted field. where: the file, for errors.
    Raises ConfigError for a missing column, a wrong type, or JSON in place of a text.
    """
    check_columns(dataset.features, names, where)
    plain = {column: name for name, column in names.items() if _is_plain(dataset, column)}
    derived = {n: read_column(dataset, c) for n, c in names.items() if plain.get(c) != n}
    if (rows := stored_rows(dataset)) is not None:
        derived = {name: values.take(pa.array(rows)) for name, values in derived.items()}
    parts = [dataset.select_columns([*plain]).rename_columns(plain)] if plain else []
    if derived:
        parts.append(Dataset(pa.table(derived), fingerprint="derived"))
    selected = concatenate_datasets(parts, axis=1) if derived else parts[0]
    for name in names.keys() & {"texts", "question", "answers"}:
        _refuse_json(selected.data.column(name), f"{where}: column {names[name]!r}")
    return selected


def _is_plain(dataset: Dataset, column: str) -> bool:
    return column in dataset.features and not isinstance(dataset.features[column], ClassLabel)


def read_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """A column of the memory-mapped table, of which `stored_rows` are the rows of the data set.

    Of a dotted name the struct's field, of labels their names.
    """
    if column not in dataset.column_names:
        parent, _, field = column.rpartition(".")
        return _map_chunks(read_column(dataset, parent), partial(_field, name=field))
    values, feature = dataset.data.column(column), dataset.features[column]
    if isinstance(feature, ClassLabel):
        return _map_chunks(values, partial(_label_names, names=feature.names))
    return values


def stored_rows(dataset: Dataset) -> np.ndarray | None:
    """(N,) the rows of the memory-mapped table that a data set has; None if all, in order."""
    indices = dataset._indices
    return None if indices is None else indices.column(0).to_numpy().astype(np.int64)


def _map_chunks(values: pa.ChunkedArray, function: Callable) -> pa.ChunkedArray:
    return pa.chunked_array(map(function, values.chunks or [pa.array([], values.type)]))


def _field(structs: pa.Array, name: str) -> pa.Array:
    """A field of structs, or of the structs in lists."""
    if not is_list(structs.type):
        return pc.struct_field(structs, name)
    lists = structs.cast(pa.large_list(structs.type.value_type))
    offsets = pa.array(lists.offsets.to_numpy())  # those of a slice take no mask
    fields = pc.struct_field(lists.values, name)
    return pa.LargeListArray.from_arrays(offsets, fields, mask=lists.is_null())


def _label_names(labels: pa.Array, names: list[str]) -> pa.Array:
    """Names of labels; null for -1, which stands for no label."""
    numbers = labels.cast(pa.int64()).fill_null(-1).to_numpy()
    known = (numbers >= 0) & (numbers < len(names))
    return pa.array(names, pa.string()).take(pa.array(numbers, mask=~known))


def _refuse_json(values: pa.ChunkedArray, where: str) -> None:
    """ConfigError if each of the first texts is a JSON object or array."""
    if not is_text(values.type):
        return
    texts = [text for text in values.slice(0, 64 * PROBED).to_pylist() if text][:PROBED]
    if texts and all(map(_is_json, texts)):
        raise ConfigError(f"{where} holds JSON, not plain text: {texts[0][:60]!r}")


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False
