"""Fingerprints of tables, by the content of every file that their rows refer to.

A digest is remembered under the cache with its file's size and times, so that a file is read once.
No fingerprint holds the location or times of a file: a copy keeps its features, a changed byte does
not.
"""

import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from edge_lib.config import MODALITIES, ConfigError, from_root
from edge_lib.data.cells import cell_paths, read_cell
from edge_lib.data.table import Table
from edge_lib.runs.files import replace_text
from edge_lib.runs.progress import progress_bar

THREADS = 16
MAX_BATCH = 256  # files in one database query
BATCH = 256  # cells in memory at once
# A file that changed a moment ago may change again without a new time, as file systems have coarse
# clocks: its digest is not remembered yet.
UNSETTLED_NS = 100_000_000
NO_CONTENT = None, "", hashlib.sha256().hexdigest()[:32]  # files that are missing or empty
COLUMNS = "path BLOB PRIMARY KEY, size INTEGER, modified INTEGER, changed INTEGER, digest TEXT"

Stamp = tuple[bytes, int, int, int]  # path, size, time of the content and of the entry in ns


def table_fingerprint(dataset: Dataset, files: Sequence[Path], cache_dir: Path, *facts: str) -> str:
    """Names the content of a table's rows, with the files of its `image` and `audio` cells.

    files: what the rows were read from. facts: whatever else they depend on.
    """
    digest = hashlib.sha256(json.dumps([facts, digest_files(files, cache_dir)]).encode())
    for column in (name for name in ("image", "audio") if name in dataset.column_names):
        # the table below the dataset: its format would read the content as well
        paths, rows = cell_paths(dataset.data.column(column)), dataset._indices
        paths = paths if rows is None else paths.take(rows.column(0))
        unique = pc.unique(paths).drop_null()
        content = [column, len(paths), *digest_files(unique.to_pylist(), cache_dir)]
        digest.update(json.dumps(content).encode())
        for numbers in pc.index_in(paths, value_set=unique).chunks:
            digest.update(pc.fill_null(numbers, -1).to_numpy())
    return digest.hexdigest()[:16]


def item_fingerprint(table: Table, modality: str, cache_dir: Path) -> str:
    """Names the items of a modality by their content alone, so that tables may share features and
    an edited caption encodes no image again. Kept under the cache, as it reads every item.
    """
    if modality == "text":
        return table.captions.digest()
    path = _items_file(table, modality, cache_dir)
    if not path.exists():
        cells = cell_digests(table, MODALITIES[modality].column, cache_dir)
        content = json.dumps([cells[row] for row in table.item_rows(modality)])
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, hashlib.sha256(content.encode()).hexdigest()[:16])
    return path.read_text(errors="replace")  # a damaged one names other features


def has_item_fingerprint(table: Table, modality: str, cache_dir: Path) -> bool:
    """Whether `item_fingerprint` reads no item."""
    return modality == "text" or _items_file(table, modality, cache_dir).exists()


def _items_file(table: Table, modality: str, cache_dir: Path) -> Path:
    return cache_dir / "items" / f"{modality}-{table.fingerprint}"


def cell_digests(table: Table, column: str, cache_dir: Path) -> list[str | None]:
    """The digest of each cell's picture or clip; None where there is none. The same one has the
    same digest in any source.
    """
    cells = table.arrow(column)
    is_member = pa.types.is_struct(cells.type) and cells.type.get_field_index("offset") >= 0
    paths = [None] * len(table) if is_member else cell_paths(cells).to_pylist()
    files = iter(digest_files(filter(None, paths), cache_dir))
    digests = [next(files) if path else None for path in paths]
    rows = [row for row, has in enumerate(table.has(column)) if has and not paths[row]]
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        for row, cell in zip(batch, table.cells(column, batch), strict=True):
            digests[row] = _digest_cell(cell)
    return [None if digest in NO_CONTENT else digest for digest in digests]


def _digest_cell(cell) -> str:
    try:
        return hashlib.sha256(read_cell(cell) or b"").hexdigest()[:32] if cell else ""
    except (OSError, ValueError):
        return ""


def digest_files(paths: Iterable[str | Path], cache_dir: Path) -> list[str]:
    """SHA-256 (32 characters) of the content of each file; "" where none can be read.

    Raises ConfigError if the database of digests under `cache_dir` cannot be used.
    """
    paths = [os.fsencode(path if os.path.isabs(path) else from_root(path)) for path in paths]
    size = max(1, min(MAX_BATCH, len(paths) // (4 * THREADS)))
    batches = [paths[start : start + size] for start in range(0, len(paths), size)]
    database = cache_dir / "digests.sqlite"
    cache_dir.mkdir(parents=True, exist_ok=True)
    try:
        with closing(_connect(database)) as connection, ThreadPoolExecutor(THREADS) as pool:
            connection.execute(f"CREATE TABLE IF NOT EXISTS digests ({COLUMNS})")
            results = pool.map(lambda batch: _digest_batch(batch, database), batches)
            return [digest for batch in _with_progress(results, len(paths)) for digest in batch]
    except sqlite3.Error as error:
        raise ConfigError(f"{database}: {error}; delete it, and it is built again") from None


def _digest_batch(paths: list[bytes], database: Path) -> list[str]:
    now, stamps = time.time_ns(), [_stamp(path) for path in paths]
    with closing(_connect(database)) as connection:
        marks = ",".join("?" * len(paths))
        rows = connection.execute(f"SELECT * FROM digests WHERE path IN ({marks})", paths)
        digests = {stamp: digest for *stamp, digest in rows for stamp in [tuple(stamp)]}
        new = {stamp: _digest(stamp[0]) for stamp in stamps if stamp and stamp not in digests}
        kept = [(*s, digest) for s, digest in new.items() if digest and now - s[-1] > UNSETTLED_NS]
        if kept:
            with suppress(sqlite3.OperationalError):  # read-only, or full: computed again next time
                connection.executemany("INSERT OR REPLACE INTO digests VALUES (?,?,?,?,?)", kept)
                connection.commit()
    digests |= new
    return [digests.get(stamp, "") for stamp in stamps]


def _connect(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=60)  # another process may write


def _stamp(path: bytes) -> Stamp | None:
    """What a digest is remembered by; None if there is no such file. Only the last time also
    changes when a tool restores the others.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null character in the path
        return None
    times = status.st_mtime_ns, status.st_ctime_ns
    return (path, status.st_size, *times) if stat.S_ISREG(status.st_mode) else None


def _digest(path: bytes) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return ""


def _with_progress(results: Iterable[list[str]], total: int) -> Iterator[list[str]]:
    """The results, with a bar of their number."""
    with progress_bar("check files", total, " files") as bar:
        for result in results:
            yield result
            bar.update(len(result))
