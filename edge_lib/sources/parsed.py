"""Tables of rows that are parsed from listing files (json, tsv, ...), one entry at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ConfigError
from edge_lib.data.table import SCHEMA, Table
from edge_lib.sources.arrow import SkippedNames, converted_table
from edge_lib.sources.paths import MissingImages
from edge_lib.sources.select import SPLIT_BY

BATCH_ROWS = 256
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TYPES = {field.name: field.type for field in SCHEMA} | {
    "image": FILE,
    "audio": FILE,
    SPLIT_BY: pa.string(),
}


@dataclass(frozen=True)
class SkippedEntry:
    """An entry of a listing file that gives no row. detail: what helps if all are such."""

    id: str
    reason: str
    detail: str = ""


def parsed_table(
    name: str,
    columns: Sequence[str],
    parse: Callable[[], Iterator[dict | SkippedEntry]],
    files: Sequence[Path],
    key: str,
    cache_dir: Path,
    folder: Path | None = None,
    facts: Sequence[str] = (),
) -> Table:
    """The table of the rows that `parse` yields.

    columns: of TYPES. files: what `parse` reads. folder: of the paths in its rows. facts: what else
    the rows depend on. Raises ConfigError with the config's `key` if there is no row, or none of
    its pictures exists.
    """

    def convert(skipped: SkippedNames) -> Iterator[pa.Table]:
        schema = pa.schema([(column, TYPES[column]) for column in columns])
        entries, problem = parse(), "is empty"
        images = MissingImages(folder or files[-1].parent, f"{key}: {files[-1]}")
        while batch := list(islice(entries, BATCH_ROWS)):
            for entry in (entry for entry in batch if isinstance(entry, SkippedEntry)):
                skipped[entry.reason].append(entry.id)
                problem = problem and f"has no usable entry: {entry.reason}{entry.detail}"
            if rows := [entry for entry in batch if isinstance(entry, dict)]:
                problem = None
                part = pa.Table.from_pylist(rows, schema)
                images.add(part)
                yield part
        if problem:
            raise ConfigError(f"{key}: {files[-1]} {problem}")
        images.check()

    return converted_table(name, files, cache_dir, [columns, facts], convert, folder)
