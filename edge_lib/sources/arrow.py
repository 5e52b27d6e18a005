"""Rows converted to Arrow once, kept under the cache and memory-mapped."""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
from datasets import Dataset
from filelock import FileLock

from edge_lib.config import ConfigError
from edge_lib.data.table import Table
from edge_lib.runs.files import whole_file, write_json
from edge_lib.sources.digests import digest_files, table_fingerprint

log = logging.getLogger(__name__)
VERSION = 1  # raise it whenever the same files give different rows

Skipped = dict[str, list[str]]  # reason -> names of rows that cannot be read


def converted_table(
    name: str,
    files: Sequence[Path],
    cache_dir: Path,
    facts: Mapping[str, object],
    convert: Callable[[Skipped], Iterable[pa.Table]],
    folder: Path | None = None,
) -> Table:
    """The table that `convert` yields in parts of one schema; it counts the rows it leaves out.

    files: all that `convert` reads. facts: whatever else its rows depend on; folder: of their
    paths, which is no part of the fingerprint.
    """
    places = [*map(str, files), str(folder)]
    key = json.dumps([VERSION, places, digest_files(files, cache_dir), facts])
    path = cache_dir / "arrow" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = path.with_suffix(".json")
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            skipped = defaultdict(list)
            _write(path, convert(skipped), name)
            write_json(counts, {reason: names for reason, names in skipped.items() if names})
    dataset = Dataset.from_file(str(path))
    table = Table(dataset, name, table_fingerprint(dataset, files, cache_dir, json.dumps(facts)))
    for reason, names in json.loads(counts.read_text()).items():
        log.warning("%s: skipped %d: %s", name, len(names), reason)
        table.skipped[reason] += names
    return table


def _write(path: Path, parts: Iterable[pa.Table], name: str) -> None:
    parts = (part for part in parts if len(part))
    first = next(parts, None)
    if first is None:
        raise ConfigError(f"{name}: no file has rows")
    with whole_file(path) as temporary, pa.ipc.new_stream(str(temporary), first.schema) as writer:
        for part in chain([first], parts):
            writer.write_table(part, max_chunksize=1000)
