"""Columns of a data set as Arrow stores them: memory-mapped, not decoded."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset
from pyarrow import types

from edge_lib.data.columns import is_list
from edge_lib.data.lazy_sequence import BLOCK


def stored_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column of the stored table, of which `stored_rows` are the rows of the data set.

    Labels are read as their names; nulls if there is no such column.
    """
    if name not in dataset.column_names:
        return pa.chunked_array([pa.nulls(dataset.data.num_rows)])
    values, feature = dataset.data.column(name), dataset.features[name]
    if isinstance(feature, ClassLabel):
        parts = [label_names(chunk, feature.names) for chunk in values.chunks]
        return pa.chunked_array(parts, pa.string())
    return values


def stored_rows(dataset: Dataset) -> np.ndarray | None:
    """(N,) the rows of the stored table that a data set has; None if all, in order."""
    indices = dataset._indices
    return None if indices is None else indices.column(0).to_numpy().astype(np.int64)


def select_rows(dataset: Dataset, rows: Sequence[int], fingerprint: str) -> Dataset:
    """Some rows, in this order. `Dataset.select` makes a Python list of their numbers first."""
    stored = stored_rows(dataset)
    places = np.arange(len(dataset)) if stored is None else stored
    indices = pa.table({"indices": places[np.asarray(rows, np.int64)].astype(np.uint64)})
    return Dataset(dataset.data, dataset.info, indices_table=indices, fingerprint=fingerprint)


def row_blocks(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    """The chunks, in parts of at most BLOCK rows, so that little memory is needed at a time."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), BLOCK):
            yield chunk.slice(start, BLOCK)


def take_rows(values: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """Some rows of a column, in this order. `take` itself would join all chunks, and fail where
    they hold more than 2 GB of text.
    """
    starts = np.cumsum([0, *map(len, values.chunks)])
    blocks = []
    for part in np.split(rows, range(BLOCK, len(rows), BLOCK)):
        chunks = np.searchsorted(starts, part, side="right") - 1
        runs = np.split(np.arange(len(part)), np.flatnonzero(np.diff(chunks)) + 1)
        numbers = [(chunks[run[0]], part[run]) for run in runs if len(run)]
        taken = [values.chunk(c).take(pa.array(own - starts[c])) for c, own in numbers]
        blocks += [pa.concat_arrays(taken)] if taken else []
    return pa.chunked_array(blocks, values.type)


def valid_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts, or lists of them, with null in place of those that are not UTF-8, on which Arrow would
    fail for all rows; other values as they are.
    """
    return pa.chunked_array(map(_valid_texts, column.chunks), column.type)


def _valid_texts(chunk: pa.Array) -> pa.Array:
    content = chunk.type.value_type if is_list(chunk.type) else chunk.type
    if not (types.is_string(content) or types.is_large_string(content)):
        return chunk
    try:
        chunk.validate(full=True)
    except pa.ArrowInvalid:
        binary = pa.large_binary()
        cells = chunk.cast(pa.large_list(binary) if is_list(chunk.type) else binary)
        return pa.array(map(_decoded, cells.to_pylist()), chunk.type)
    return chunk


def _decoded(value: bytes | list | None) -> str | list | None:
    if isinstance(value, list):
        return [*map(_decoded, value)]
    try:
        return value and value.decode()
    except UnicodeDecodeError:
        return None


def label_names(labels: pa.Array, names: list[str]) -> pa.Array:
    """Names of labels; null for -1, which stands for no label."""
    numbers = labels.cast(pa.int64()).fill_null(-1).to_numpy()
    known = (numbers >= 0) & (numbers < len(names))
    return pa.array(names, pa.string()).take(pa.array(numbers, mask=~known))
