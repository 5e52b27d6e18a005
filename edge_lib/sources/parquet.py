"""Parquet files, converted to Arrow once and read through a memory map."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.config import ConfigError
from edge_lib.data.columns import check_shards
from edge_lib.data.table import Table
from edge_lib.sources.arrow import SkippedNames, converted_table

log = logging.getLogger(__name__)
BATCH = 1000  # rows in memory at once


def read_parquet(files: Sequence[Path], name: str, cache_dir: Path) -> Table:
    """A table of files that have the columns of the schema."""

    def convert(_: SkippedNames) -> Iterator[pa.Table]:
        # without the metadata by which `datasets` would decode pictures and sounds
        return (part.replace_schema_metadata(None) for _, part in read_parts(files))

    return converted_table(name, files, cache_dir, {}, convert)


def read_parts(
    files: Sequence[Path], columns: Sequence[str] | None = None
) -> Iterator[tuple[Path, pa.Table]]:
    """All rows, in parts of one schema, with their file. columns: all by default; a dotted name is
    a field. Raises ConfigError for files that disagree on a column's type.
    """
    schemas = parquet_schemas(files)
    check_shards(schemas, columns)
    names = {column_of(name, s.names) for s in schemas.values() for name in columns or s.names}
    kept = [
        pa.schema([field for field in s if field.name in names], s.metadata)
        for s in schemas.values()
    ]
    schema = pa.unify_schemas(kept, promote_options="permissive")
    for path in schemas:
        with open_parquet(path) as file:
            for batch in read_batches(file, path, BATCH, schema.names):
                yield path, pa.Table.from_batches([batch]).select(schema.names).cast(schema)


def read_batches(
    file: pq.ParquetFile, path: Path, rows: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Batches of at most so many rows. ConfigError for a damaged page, if the file has checksums or
    the page cannot be read.
    """
    try:
        yield from file.iter_batches(rows, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{path} is damaged: {error}") from None


def parquet_schemas(files: Sequence[Path]) -> dict[Path, pa.Schema]:
    """The schemas of the files that have rows. ConfigError if all are empty."""
    schemas = {}
    for path in files:
        with open_parquet(path) as file:
            if file.metadata.num_rows:
                schemas[path] = file.schema_arrow
            else:
                log.warning("%s has no rows and is left out", path)
    if not schemas:
        raise ConfigError(f"{files[0]} has no rows, nor have the {len(files) - 1} files beside it")
    return schemas


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file, which is to be closed. ConfigError if it is not Parquet."""
    try:
        return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(f"{path} is not a Parquet file: {error}") from None


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix == ".parquet" or file.read(4) == b"PAR1"


def column_of(name: str, columns: Sequence[str]) -> str:
    """The column that holds a dotted field, or is itself called so."""
    while name not in columns and "." in name:
        name = name.rpartition(".")[0]
    return name
