"""The texts of a column, which stay in Arrow's memory map until they are read."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from edge_lib.config import ConfigError
from edge_lib.data.columns import is_list
from edge_lib.data.lazy_sequence import BLOCK, LazySequence
from edge_lib.data.row_items import RowItems, compact
from edge_lib.data.stored import row_blocks, valid_texts

FEW = 32
PROBED = 5  # first texts of a column, read to tell JSON from plain text
WHITESPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))  # what str.strip() removes


@dataclass(eq=False)
class Texts(LazySequence):
    """Every text of a column that is not empty, stripped; those of one row stand together.

    values: all strings of the column. places (M,): the index in `values` of each text. rows (M,)
    int64: the row of each, ascending.
    """

    values: pa.ChunkedArray
    places: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def take(self, numbers: Sequence[int]) -> list[str]:
        places = self.places[numbers] if len(numbers) else self.places[:0]
        if _are_dense(places):
            return self._slice(places).to_pylist()
        return [self.values[place].as_py().strip() for place in places.tolist()]

    def _slice(self, places: np.ndarray) -> pa.Array:
        """The texts at places that are close together; faster than a look-up of each."""
        first, last = int(places.min()), int(places.max())
        span = self.values.slice(first, last - first + 1).cast(pa.large_string())
        return _strip(span.combine_chunks().take(pa.array(places - first)))

    def missing_rows(self, num_rows: int) -> np.ndarray:
        """The rows of `num_rows` that have no text."""
        return np.flatnonzero(np.bincount(self.rows, minlength=num_rows) == 0)

    def digest(self) -> str:
        """Names the texts, however their column is divided into chunks."""
        lengths, content = hashlib.sha256(), hashlib.sha256()
        for block in self._blocks():
            offsets = np.frombuffer(block.buffers()[1], np.int64)[: len(block) + 1]
            lengths.update(np.diff(offsets))
            content.update(memoryview(block.buffers()[2])[offsets[0] : offsets[-1]])
        return hashlib.sha256(lengths.digest() + content.digest()).hexdigest()[:16]

    def _blocks(self) -> Iterator[pa.Array]:
        """All texts in order, as arrays."""
        for start in range(0, len(self), BLOCK):
            places = self.places[start : start + BLOCK]
            dense, numbers = _are_dense(places), range(start, start + len(places))
            yield self._slice(places) if dense else pa.array(self.take(numbers), pa.large_string())


def _are_dense(places: np.ndarray) -> bool:
    """Whether there are many of them in a span that is not much longer."""
    return len(places) > FEW and int(places.max()) - int(places.min()) < 4 * len(places)


def read_texts(column: pa.ChunkedArray, rows: np.ndarray | None = None) -> Texts:
    """The texts of a column of strings, or of lists of strings, of which any may be null.

    rows: of the column that the table has, in its order; all by default.
    """
    pieces, places, owners, num_values, num_rows = [], [], [], 0, 0
    for chunk in row_blocks(column):
        strings, lengths = _flatten(chunk)
        valid = np.repeat(chunk.is_valid().to_numpy(zero_copy_only=False), lengths)
        filled = pc.greater(pc.binary_length(_strip(strings)), 0)
        kept = np.flatnonzero(valid & filled.fill_null(False).to_numpy(zero_copy_only=False))
        pieces.append(strings)
        places.append(kept + num_values)
        owners.append(np.repeat(np.arange(len(chunk)) + num_rows, lengths)[kept])
        num_values, num_rows = num_values + len(strings), num_rows + len(chunk)
    values = pa.chunked_array(pieces, pieces[0].type if pieces else pa.string())
    places, owners = (np.concatenate([np.empty(0, np.int64), *part]) for part in (places, owners))
    if rows is None:
        return Texts(values, compact(places), owners)
    selected = RowItems.group(places, owners, num_rows).select(rows)
    return Texts(values, selected.items, selected.rows)


def refuse_json(column: pa.ChunkedArray, where: str) -> None:
    """ConfigError if each of the first texts is a JSON object or array."""
    texts = read_texts(valid_texts(column.slice(0, BLOCK)))[:PROBED]
    if texts and all(map(_is_json, texts)):
        raise ConfigError(f"{where} holds JSON, not plain text: {texts[0][:60]!r}")


def _is_json(text: str) -> bool:
    try:
        return text[0] in "[{" and isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _flatten(chunk: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The strings of some rows, without a copy where possible, and how many belong to each."""
    if not is_list(chunk.type):
        return _as_strings(chunk), np.ones(len(chunk), np.int64)
    if not (types.is_list(chunk.type) or types.is_large_list(chunk.type)):
        chunk = chunk.cast(pa.large_list(chunk.type.value_type))
    offsets = chunk.offsets.to_numpy()
    strings = _as_strings(chunk.values.slice(offsets[0], offsets[-1] - offsets[0]))
    return strings, np.diff(offsets)


def _as_strings(values: pa.Array) -> pa.Array:
    if types.is_string(values.type) or types.is_large_string(values.type):
        return values
    return values.cast(pa.large_string())


def _strip(strings: pa.Array) -> pa.Array:
    return pc.utf8_trim(strings, characters=WHITESPACE)
