"""Tables that a source generates: written to the cache once, then read like any Parquet file.

Their path holds a digest of the config that describes them and a version, a number that the source
raises whenever the same config gives other rows.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.config.base import Section
from edge_lib.data.table import SCHEMA, Table
from edge_lib.runs.files import whole_file
from edge_lib.runs.lock import hold_lock
from edge_lib.sources.parquet import read_parquet


def generated_path(cache_dir: Path, name: str, section: Section, version: int, split: str) -> Path:
    return cache_dir / f"{name}-v{version}-{section.digest()}" / f"{split}.parquet"


def read_generated(path: Path, make_rows: Callable[[], Iterator[dict]], name: str) -> Table:
    """The table in a Parquet file under the cache. If the file does not exist it is written first;
    a second process waits for the first.
    """
    if not path.exists():
        with hold_lock(path.with_suffix(".lock")):
            _write(path, make_rows)
    return read_parquet([path], name, path.parents[1])


def _write(path: Path, make_rows: Callable[[], Iterator[dict]]) -> None:
    if not path.exists():  # another process has just written it
        with whole_file(path) as temporary:
            rows = pa.Table.from_pylist(list(make_rows()), schema=SCHEMA)
            pq.write_table(rows, temporary, write_page_checksum=True)
