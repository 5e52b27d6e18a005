"""Rows with the same picture and sound become one row with the captions of all.

Else the captions of a picture that stands in five rows would be wrong answers for one another.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from edge_lib.data.stored import select_rows
from edge_lib.data.table import Table
from edge_lib.runs.files import whole_file
from edge_lib.sources.select import MEDIA, SPLIT_BY, group_lists

BATCH = 256  # rows whose pictures are in memory at once


def join_table(table: Table, cache_dir: Path) -> Table:
    """The first row of each picture and sound, with the captions of all. No picture is copied: the
    other rows are left out by their number.
    """
    rows = table.dataset.data.table
    if "texts" not in rows.column_names or not {*MEDIA} & {*rows.column_names}:
        return table
    numbers = media_numbers(table, cache_dir)
    first = np.unique(numbers, return_index=True)[1]
    if len(first) == len(rows):
        return table
    captions = group_lists(rows["texts"], numbers)
    lengths = np.zeros(len(rows), np.int32)
    lengths[first] = np.diff(captions.offsets)
    offsets = np.r_[0, np.cumsum(lengths)].astype(np.int32)
    lists = pa.ListArray.from_arrays(offsets, captions.values)
    joined = rows.set_column(rows.column_names.index("texts"), "texts", lists)
    fingerprint = f"{table.fingerprint}-joined"
    result = Table(select_rows(Dataset(joined), first, fingerprint), table.name, fingerprint)
    result.skipped.update(table.skipped)
    return result


def media_numbers(table: Table, cache_dir: Path) -> np.ndarray:
    """(N,) the number of each row's picture and sound, in the order of their first rows; kept under
    the cache. A row with neither has a number of its own.
    """
    path = cache_dir / "joined" / f"{table.fingerprint}.npy"
    if not path.exists():
        rows = table.dataset.data.table
        parts = (rows.slice(start, BATCH) for start in range(0, len(rows), BATCH))
        codes = pd.factorize(np.concatenate([*map(_media_keys, parts)]))[0]  # -1 for None
        own = len(codes) + np.arange(len(codes))
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, pd.factorize(np.where(codes < 0, own, codes))[0])
    return np.load(path)


def _media_keys(table: pa.Table) -> np.ndarray:
    """(N,) a digest of the bytes or paths of each row; None where it has none."""
    names = [name for name in (*MEDIA, SPLIT_BY) if name in table.column_names]
    rows = zip(*(map(_key, table[name].to_pylist()) for name in names), strict=True)
    num_media = len([name for name in names if name in MEDIA])
    keys = [_digest(repr(row).encode()) if any(row[:num_media]) else None for row in rows]
    return np.array(keys, object)


def _key(cell: object) -> object:
    content = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
    return _digest(content) if isinstance(content, bytes) else content


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
