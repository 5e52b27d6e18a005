"""Rows with the same picture and sound become one row with the captions of all.

Else the captions of a picture that stands in five rows would be wrong answers for one another.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from edge_lib.data.stored import select_rows
from edge_lib.data.table import Table
from edge_lib.runs.arrays import load_array, save_array
from edge_lib.runs.files import whole_file
from edge_lib.sources.digests import cell_digests
from edge_lib.sources.select import MEDIA, SPLIT_BY, group_lists


def join_table(table: Table, cache_dir: Path) -> Table:
    """The first row of each picture and sound, with the captions of all, which are kept under the
    cache. No picture is copied: the other rows are left out by their number.
    """
    names = table.dataset.column_names
    if "texts" not in names or not {*MEDIA} & {*names}:
        return table
    numbers = media_numbers(table, cache_dir)
    first = np.unique(numbers, return_index=True)[1]
    if len(first) == len(numbers):
        return table
    path = cache_dir / "joined" / f"{table.fingerprint}.arrow"
    if not path.exists():
        texts = pa.table({"texts": _join(table.arrow("texts"), numbers, first)})
        with whole_file(path) as temporary, pa.ipc.new_stream(temporary, texts.schema) as writer:
            writer.write_table(texts, max_chunksize=10_000)
    parts = [table.dataset.remove_columns("texts"), Dataset.from_file(str(path))]
    fingerprint = f"{table.fingerprint}-joined"
    joined = select_rows(concatenate_datasets(parts, axis=1), first, fingerprint)
    result = Table(joined, table.name, fingerprint)
    result.skipped.update(table.skipped)
    return result


def _join(texts: pa.ChunkedArray, numbers: np.ndarray, first: np.ndarray) -> pa.ListArray:
    """(N,) the texts of all rows with a number in the first of them; others have none."""
    joined = group_lists(texts, numbers)
    lengths = np.zeros(len(numbers), np.int32)
    lengths[first] = np.diff(joined.offsets)
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
    return pa.ListArray.from_arrays(offsets, joined.values)


def media_numbers(table: Table, cache_dir: Path) -> np.ndarray:
    """(N,) the number of each row's picture and sound, by their content and in the order of their
    first rows; kept under the cache. A row with neither has a number of its own.
    """
    path = cache_dir / "joined" / f"{table.fingerprint}.npz"
    if not path.exists():
        names = [name for name in MEDIA if name in table.dataset.column_names]
        contents = [*zip(*(cell_digests(table, name, cache_dir) for name in names), strict=True)]
        by = table.column(SPLIT_BY)
        keys = [repr(pair) if any(pair[0]) else None for pair in zip(contents, by, strict=True)]
        codes = pd.factorize(np.array(keys, object))[0]  # -1 for None
        own = len(codes) + np.arange(len(codes))
        save_array(path, pd.factorize(np.where(codes < 0, own, codes))[0])
    return load_array(path)
