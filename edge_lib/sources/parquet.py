"""Parquet files, converted to Arrow once and read through a memory map."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.config import ConfigError
from edge_lib.data.columns import check_shards
from edge_lib.data.table import Table
from edge_lib.sources.arrow import Skipped, converted_table

log = logging.getLogger(__name__)
BATCH = 1000  # rows in memory at once


def read_parquet(files: Sequence[Path], name: str, cache_dir: Path) -> Table:
    """A table of files that have the columns of the schema."""

    def convert(_: Skipped) -> Iterator[pa.Table]:
        # without the metadata by which `datasets` would decode pictures and sounds
        return (part.replace_schema_metadata(None) for part in read_parts(files))

    return converted_table(name, files, cache_dir, {}, convert)


def read_parts(files: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """All rows, in parts of one schema. columns: all by default; a dotted name is a field.

    Empty files are left out. Raises ConfigError for a file that is not Parquet, and for files that
    disagree on a column's type.
    """
    opened = open_parquet(files)
    schemas = {file: parquet.schema_arrow for file, parquet in opened.items()}
    check_shards(schemas, columns)
    names = {column_of(name, s.names) for s in schemas.values() for name in columns or s.names}
    kept = [
        pa.schema([field for field in s if field.name in names], s.metadata)
        for s in schemas.values()
    ]
    schema = pa.unify_schemas(kept, promote_options="permissive")
    for parquet in opened.values():
        for batch in parquet.iter_batches(BATCH, columns=schema.names):
            yield pa.Table.from_batches([batch]).select(schema.names).cast(schema)


def open_parquet(files: Sequence[Path]) -> dict[Path, pq.ParquetFile]:
    """The files that have rows. ConfigError for one that is not Parquet, or if all are empty."""
    try:
        opened = {file: pq.ParquetFile(current := file, memory_map=True) for file in files}
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(f"{current} is not a Parquet file: {error}") from None
    empty = [file for file, parquet in opened.items() if not parquet.metadata.num_rows]
    if len(empty) == len(files):
        raise ConfigError(f"{files[0]} has no rows, nor have the {len(files) - 1} files beside it")
    for file in empty:
        log.warning("%s has no rows and is left out", file)
        del opened[file]
    return opened


def column_of(name: str, columns: Sequence[str]) -> str:
    """The column that holds a dotted field, or is itself called so."""
    while name not in columns and "." in name:
        name = name.rpartition(".")[0]
    return name
