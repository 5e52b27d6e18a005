"""Tables whose rows are parsed from listing files (json, tsv, ...).

A file is parsed once: the rows are kept under the cache as a memory-mapped Arrow file, the entries
that gave no row as a list of reasons and ids.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
from datasets import Dataset
from filelock import FileLock

from edge_lib.config import ConfigError
from edge_lib.data.table import SCHEMA, Table
from edge_lib.runs.files import whole_folder, write_json
from edge_lib.sources.digests import digest_files, table_fingerprint

VERSION = 1  # raised whenever a parser gives other rows for the same files
BATCH_ROWS = 256
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

log = logging.getLogger(__name__)


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

    columns: of `data.table.SCHEMA`; a cell of `image` or `audio` is {bytes, path}. files: what
    `parse` reads. folder: of the paths in its rows. facts: what else the rows depend on. Raises
    ConfigError with the config's `key` if there is no row.
    """
    facts = [str(VERSION), *columns, *facts]
    # rows hold absolute paths, so those of a copied folder are others
    content = [facts, *map(str, [folder, *files]), *digest_files(files, cache_dir)]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    parsed = cache_dir / "parsed" / digest
    parsed.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parsed.with_suffix(".lock")):
        if not parsed.exists():
            with whole_folder(parsed) as temporary:
                where = f"{key}: {files[-1]}"
                skipped = _write_rows(temporary / "rows.arrow", columns, parse(), where)
                write_json(temporary / "skipped.json", skipped)
    dataset = Dataset.from_file(str(parsed / "rows.arrow"))
    table = Table(dataset, name, table_fingerprint(dataset, files, cache_dir, *facts))
    for reason, ids in json.loads((parsed / "skipped.json").read_text()).items():
        table.skipped[reason] += ids
        log.warning("%s: skipped %d entries: %s: %s", name, len(ids), reason, ", ".join(ids[:3]))
    return table


def _write_rows(
    path: Path, columns: Sequence[str], entries: Iterator[dict | SkippedEntry], where: str
) -> dict[str, list[str]]:
    """Write the rows among the entries; returns the ids of the others for each reason."""
    skipped, count, problem = defaultdict(list), 0, "is empty"
    files = dict.fromkeys(("image", "audio"), FILE)
    schema = pa.schema([(name, files.get(name, SCHEMA.field(name).type)) for name in columns])
    with pa.ipc.new_stream(path, schema) as writer:
        while batch := list(islice(entries, BATCH_ROWS)):
            for entry in (entry for entry in batch if isinstance(entry, SkippedEntry)):
                skipped[entry.reason].append(entry.id)
                problem = f"has no usable entry: {entry.reason}{entry.detail}"
            rows = [entry for entry in batch if isinstance(entry, dict)]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
            count += len(rows)
    if not count:
        raise ConfigError(f"{where} {problem}")
    return skipped
