"""Rows with the same picture and sound become one row with the captions of all.

Else the captions of a picture that stands in five rows would be wrong answers for one another.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset

from edge_lib.data.table import Table
from edge_lib.runs.files import whole_file
from edge_lib.sources.select import MEDIA, SPLIT_BY

BATCH = 256  # rows whose pictures are in memory at once


def join_captions(keys: np.ndarray, texts: pa.ChunkedArray) -> tuple[np.ndarray, pa.ListArray]:
    """(M,) the first row of each key, ascending, and (M,) the captions of its rows. Rows whose key
    is None stay alone.
    """
    numbers = row_numbers(keys)
    first = np.unique(numbers, return_index=True)[1]
    ordered = pa.concat_arrays(texts.chunks).take(np.argsort(numbers, kind="stable"))
    offsets = ordered.offsets.take(np.r_[0, np.cumsum(np.bincount(numbers))])
    return first, pa.ListArray.from_arrays(offsets, ordered.values)


def row_numbers(keys: np.ndarray) -> np.ndarray:
    """(N,) the number of each row's key, in the order of their first rows."""
    codes = pd.factorize(keys)[0]  # -1 for None
    return pd.factorize(np.where(codes < 0, len(codes) + np.arange(len(codes)), codes))[0]


def join_table(table: Table, cache_dir: Path) -> Table:
    """The first rows of a table in Arrow, with the captions of all. No picture is copied: the
    others are left out by their row number. Which rows are equal is kept under the cache.
    """
    rows = table.dataset.data.table
    if "texts" not in rows.column_names or not {*MEDIA} & {*rows.column_names}:
        return table
    path = cache_dir / "joined" / f"{table.fingerprint}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = (rows.slice(start, BATCH) for start in range(0, len(rows), BATCH))
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, row_numbers(np.concatenate([*map(media_keys, parts)])))
    first, captions = join_captions(np.load(path), rows["texts"])
    if len(first) == len(rows):
        return table
    lengths = np.zeros(len(rows), np.int32)
    lengths[first] = np.diff(captions.offsets)
    lists = pa.ListArray.from_arrays(np.r_[0, np.cumsum(lengths)].astype(np.int32), captions.values)
    rows = rows.set_column(rows.column_names.index("texts"), "texts", lists)
    return Table(Dataset(rows).select(first), table.name, f"{table.fingerprint}-joined")


def media_keys(table: pa.Table) -> np.ndarray:
    """(N,) a text for each row that names the content of its bytes, or its path; None without."""
    names = [name for name in (*MEDIA, SPLIT_BY) if name in table.column_names]
    rows = zip(*(map(_key, table[name].to_pylist()) for name in names), strict=True)
    has_media = len([name for name in names if name in MEDIA])
    return np.array([repr(row) if any(row[:has_media]) else None for row in rows], object)


def _key(cell: object) -> str | None:
    content = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content


def join_rows(
    parts: Iterable[pa.Table], first: np.ndarray, captions: pa.ListArray
) -> Iterator[pa.Table]:
    """The first rows, with joined captions."""
    start, done = 0, 0
    for part in parts:
        rows = first[(first >= start) & (first < start + len(part))] - start
        joined = captions.slice(done, len(rows))
        yield part.take(rows).set_column(part.column_names.index("texts"), "texts", joined)
        start, done = start + len(part), done + len(rows)
