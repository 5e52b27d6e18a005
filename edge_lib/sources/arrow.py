"""Rows converted to Arrow once, kept under the cache and memory-mapped."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from edge_lib.config import ConfigError
from edge_lib.data.table import Table
from edge_lib.runs.files import read_json, whole_folder, write_json
from edge_lib.runs.lock import hold_lock
from edge_lib.sources.digests import digest_files, table_fingerprint

VERSION = 3  # raised whenever the same files give other rows

SkippedNames = dict[str, list[str]]  # reason -> names of rows that cannot be read


def converted_table(
    name: str,
    files: Sequence[Path],
    cache_dir: Path,
    facts: object,
    convert: Callable[[SkippedNames], Iterable[pa.Table]],
    folder: Path | None = None,
) -> Table:
    """The table that `convert` yields in parts of one schema; it names the rows it leaves out.

    files: all that `convert` reads. facts: whatever else its rows depend on, as JSON. folder: of
    the paths in its rows. Raises ConfigError if there is no row.
    """
    facts = json.dumps([VERSION, facts])
    # rows hold absolute paths, so those of a copied folder are others
    content = [facts, *map(str, [folder, *files]), *digest_files(files, cache_dir)]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    converted = cache_dir / "arrow" / digest
    if not converted.exists():
        with hold_lock(converted.with_suffix(".lock")):
            _write(converted, convert, name)
    dataset = Dataset.from_file(str(converted / "rows.arrow"))
    table = Table(dataset, name, table_fingerprint(dataset, files, cache_dir, facts))
    for reason, names in read_json(converted / "skipped.json").items():
        table.skip_names(reason, names)
    return table


def _write(folder: Path, convert: Callable[[SkippedNames], Iterable[pa.Table]], name: str) -> None:
    if folder.exists():  # another process has just written it
        return
    skipped = defaultdict(list)
    parts = (part for part in convert(skipped) if len(part))
    first = next(parts, None)
    if first is None:
        reasons = [f"; {reason}: {names[0]}" for reason, names in skipped.items() if names]
        raise ConfigError(f"{name}: no file has rows{''.join(reasons)}")
    with whole_folder(folder) as temporary:
        with pa.ipc.new_stream(str(temporary / "rows.arrow"), first.schema) as writer:
            for part in chain([first], parts):
                writer.write_table(part, max_chunksize=1000)
        write_json(temporary / "skipped.json", {r: names for r, names in skipped.items() if names})
