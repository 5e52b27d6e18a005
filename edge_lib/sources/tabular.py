"""csv, tsv, json, jsonl and Parquet files: a row for each picture or sound, with its captions."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ROOT, ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.arrow import SkippedNames, converted_table
from edge_lib.sources.csv_files import read_csv
from edge_lib.sources.entries import json_entries
from edge_lib.sources.files import named_files
from edge_lib.sources.join import join_table
from edge_lib.sources.json_files import MAX_ROWS, read_json_rows
from edge_lib.sources.parquet import is_parquet, parquet_schemas, read_parts
from edge_lib.sources.paths import resolve_paths
from edge_lib.sources.select import Columns, check_named, named_columns, select_columns

JSON = {".json", ".jsonl", ".ndjson"}


def load(config: DataConfig, split: str) -> Table:
    """The rows of `data.table` or `data.parquet`."""
    source = getattr(config, config.source)
    files = named_files(source, split, f"data.{config.source}")
    columns = named_columns(source, config.split and config.split.by)
    return read_tables(f"{config.source} {split}", files, config.cache_dir, columns, source.folder)


def read_tables(
    name: str, files: Sequence[Path], cache_dir: Path, columns: Columns, folder: Path | None = None
) -> Table:
    """The named columns of files. Rows with the same picture and sound become one row with all
    their captions. folder: of relative paths; by default that of each file, or ROOT.
    """
    convert = partial(_convert, files, columns, folder)
    table = converted_table(name, files, cache_dir, columns, convert, folder)
    return join_table(table, cache_dir)


def _convert(
    files: Sequence[Path], columns: Columns, folder: Path | None, skipped: SkippedNames
) -> Iterator[pa.Table]:
    """The named columns of each file, in parts of one schema."""
    schema, styles = None, {}
    for file, table in read_named(files, columns, skipped):
        folders = [folder] if folder else [file.parent, ROOT]
        part = resolve_paths(select_columns(table, columns, file), folders, file, styles)
        schema = schema or part.schema
        if part.schema != schema:
            raise ConfigError(f"{file} and {files[0]} disagree: {part.schema} and {schema}")
        yield part


def read_named(
    files: Sequence[Path], columns: Columns, skipped: SkippedNames
) -> Iterator[tuple[Path, pa.Table]]:
    """Parts of the files, whose named columns exist and have the right types."""
    if all(map(is_parquet, files)):
        for file, schema in parquet_schemas(files).items():
            check_named(schema, columns, file)
        names = [column for several in columns.values() for column in several]
        yield from read_parts(files, names)
        return
    for file in files:
        for part in _parts(file, columns, skipped):
            check_named(part.schema, columns, file)
            yield file, part


def _parts(file: Path, columns: Columns, skipped: SkippedNames) -> Iterator[pa.Table]:
    """Parts of one file; of JSON, the named columns alone."""
    if is_parquet(file):
        return (part for _, part in read_parts([file]))
    if JSON & {*file.suffixes}:
        return read_json_rows(file, columns, skipped)
    return read_csv(file, skipped)


def column_names(file: Path) -> list[str]:
    """The columns of a file with rows."""
    if not JSON & {*file.suffixes}:
        return first_part(file, {}).column_names
    entries = islice(json_entries(file), MAX_ROWS)
    return [*dict.fromkeys(key for entry in entries if isinstance(entry, dict) for key in entry)]


def first_part(file: Path, columns: Columns) -> pa.Table:
    """The first rows of a file. ConfigError if there are none."""
    part = next((p for p in _parts(file, columns, defaultdict(list)) if len(p)), None)
    if part is None:
        raise ConfigError(f"{file} has no rows")
    return part
