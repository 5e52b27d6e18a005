"""csv, tsv, json, jsonl and Parquet files: a row for each picture or sound, with its captions."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from edge_lib.config import ROOT, ConfigError, DataConfig
from edge_lib.data.columns import is_bytes
from edge_lib.data.table import Table
from edge_lib.sources.arrow import Skipped, converted_table
from edge_lib.sources.csv_files import read_csv
from edge_lib.sources.files import named_files
from edge_lib.sources.join import join_captions, join_rows, media_keys
from edge_lib.sources.json_files import read_json_rows
from edge_lib.sources.parquet import open_parquet, read_parts
from edge_lib.sources.paths import resolve_paths
from edge_lib.sources.select import (
    MEDIA,
    TEXTS,
    Columns,
    check_named,
    named_columns,
    select_columns,
)

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
    return converted_table(name, files, cache_dir, columns, convert, folder)


def _convert(
    files: Sequence[Path], columns: Columns, folder: Path | None, skipped: Skipped
) -> Iterator[pa.Table]:
    parts = _selected(files, columns, folder, skipped)
    if "texts" not in columns or not {*MEDIA} & {*columns}:
        yield from parts
        return
    first = next(parts, None)
    if first is None:
        return
    in_memory = not any(_holds_bytes(first[name].type) for name in MEDIA if name in columns)
    parts = [first, *parts] if in_memory else chain([first], parts)
    keys, texts = zip(*((media_keys(part), part["texts"]) for part in parts), strict=True)
    chunks = [chunk for column in texts for chunk in column.chunks]
    joined = join_captions(np.concatenate(keys), pa.chunked_array(chunks, TEXTS))
    again = parts if in_memory else _selected(files, columns, folder, defaultdict(list))
    yield from join_rows(again, *joined)


def _holds_bytes(kind: pa.DataType) -> bool:
    return is_bytes(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _selected(
    files: Sequence[Path], columns: Columns, folder: Path | None, skipped: Skipped
) -> Iterator[pa.Table]:
    """The named columns of each file, in parts of one schema."""
    schema = None
    for file, table in _read(files, columns, skipped):
        folders = [folder] if folder else [file.parent, ROOT]
        part = resolve_paths(select_columns(table, columns, file), folders, file)
        schema = schema or part.schema
        if part.schema != schema:
            raise ConfigError(f"{file} and {files[0]} disagree: {part.schema} and {schema}")
        yield part


def _read(
    files: Sequence[Path], columns: Columns, skipped: Skipped
) -> Iterator[tuple[Path, pa.Table]]:
    """Parts of the files, whose named columns exist and have the right types."""
    if all(map(_is_parquet, files)):
        for file, opened in open_parquet(files).items():
            check_named(opened.schema_arrow, columns, file)
        names = [column for several in columns.values() for column in several]
        yield from ((files[0], part) for part in read_parts(files, names))
        return
    for file in files:
        for part in _parts(file, columns, skipped):
            check_named(part.schema, columns, file)
            yield file, part


def _parts(file: Path, columns: Columns, skipped: Skipped) -> Iterator[pa.Table]:
    """Parts of one file; of JSON, only the named columns are not null."""
    if _is_parquet(file):
        return read_parts([file])
    if JSON & {*file.suffixes}:
        return read_json_rows(file, columns, skipped)
    return read_csv(file, skipped)


def first_part(file: Path, columns: Columns) -> pa.Table:
    """The first rows of a file. ConfigError if there are none."""
    part = next(_parts(file, columns, defaultdict(list)), None)
    if part is None:
        raise ConfigError(f"{file} has no rows")
    return part


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as content:
        return file.suffix == ".parquet" or content.read(4) == b"PAR1"
