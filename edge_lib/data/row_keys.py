"""Numbers in place of the values that rows share: groups and images."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from edge_lib.data.columns import is_bytes, is_text
from edge_lib.data.stored import row_blocks

SAMPLE = 1024  # bytes at each end of a file that tell it from others of the same size


def row_keys(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 equal for equal values, whole numbers as they are; (N,) bool, false for nulls."""
    known = column.is_valid().to_numpy()
    if types.is_integer(column.type):
        keys = column.fill_null(0).cast(pa.int64(), safe=False).to_numpy()
    elif types.is_null(column.type):
        keys = np.zeros(len(column), np.int64)
    else:
        values = column.cast(pa.large_string()) if is_text(column.type) else column
        chunks = values.dictionary_encode().unify_dictionaries().chunks
        codes = [chunk.indices.fill_null(0).to_numpy() for chunk in chunks]
        keys = np.concatenate([np.empty(0, np.int64), *codes])
    return keys, known


def is_blank(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) bool: which cells are empty texts."""
    if not is_text(column.type):
        return np.zeros(len(column), bool)
    return pc.equal(column.cast(pa.large_string()), "").fill_null(False).to_numpy()


def file_keys(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) int64 equal for cells with the same image or clip: the same path, or as many bytes of
    which those at both ends are equal. (Of a million images, all would take too long to compare.)
    """
    names = (name for part in row_blocks(column) for name in _file_name(part).to_pylist())
    return np.fromiter(map(hash, names), np.int64, len(column))


def _file_name(cells: pa.Array) -> pa.Array:
    """Cells -> binary that names their files."""
    if types.is_struct(cells.type):
        fields = [field.name for field in cells.type if field.name in ("bytes", "path", "offset")]
        parts = [_file_name(pc.struct_field(cells, name)) for name in fields]
    elif is_bytes(cells.type):
        cells = cells.cast(pa.large_binary())
        ends = pc.binary_slice(cells, 0, SAMPLE), pc.binary_slice(cells, -SAMPLE)
        parts = [_as_binary(pc.binary_length(cells)), *ends]
    else:
        parts = [_as_binary(cells)]
    separator = pa.scalar(b"/", pa.large_binary())
    return pc.binary_join_element_wise(*parts, separator, null_handling="replace")


def _as_binary(values: pa.Array) -> pa.Array:
    return values.cast(pa.large_string()).cast(pa.large_binary())


def number_images(
    keys: np.ndarray, shared: np.ndarray, files: np.ndarray, has_image: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(P,) the row that holds each image, ascending; (N,) the number of each row's image.

    Rows share an image if `shared` is true, their keys are equal, and so are their files. A row
    without an image has that of the first row with its key that has one.
    """
    rows = np.arange(len(keys))
    groups = _ranks(np.where(shared, keys, 0), np.where(shared, -1, rows))
    owner = np.where(has_image, rows, _first(groups, has_image)[groups])
    own_file = np.where(owner < 0, -1, files[owner])
    numbers = _ranks(groups, own_file)
    holders = _first(numbers, np.ones_like(has_image))
    with_image = _first(numbers, has_image)
    holders = np.where(with_image < 0, holders, with_image)
    order = np.argsort(holders)
    return holders[order], np.argsort(order)[numbers]


def _ranks(*columns: np.ndarray) -> np.ndarray:
    """(N,) numbers from 0 on, equal where all columns are."""
    codes = [pd.factorize(column)[0] for column in columns]
    combined = codes[0]
    for column in codes[1:]:
        combined = pd.factorize(combined * (column.max(initial=0) + 1) + column)[0]
    return combined


def _first(groups: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(G,) the first row of each group for which the mask is true; -1 where there is none."""
    first = np.full(groups.max(initial=-1) + 1, -1)
    rows = np.flatnonzero(mask)[::-1]
    first[groups[rows]] = rows  # of several, the last assignment stays
    return first
