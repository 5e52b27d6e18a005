"""Rows with the same picture and sound become one row with the captions of all.

Else the captions of a picture that stands in five rows would be wrong answers for one another.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from edge_lib.sources.select import MEDIA, SPLIT_BY


def join_captions(keys: np.ndarray, texts: pa.ChunkedArray) -> tuple[np.ndarray, pa.ListArray]:
    """(M,) the first row of each key, ascending, and (M,) the captions of its rows. Rows whose key
    is None stay alone.
    """
    codes = pd.factorize(keys)[0]
    codes = np.where(codes < 0, len(codes) + np.arange(len(codes)), codes)
    numbers = pd.factorize(codes)[0]
    first = np.unique(numbers, return_index=True)[1]
    ordered = pa.concat_arrays(texts.chunks).take(np.argsort(numbers, kind="stable"))
    offsets = ordered.offsets.take(np.r_[0, np.cumsum(np.bincount(numbers))])
    return first, pa.ListArray.from_arrays(offsets, ordered.values)


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
