"""Parquet files as tables: read through a memory map, and made on first use where they are ours."""

import hashlib
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, Dataset, Image
from filelock import FileLock
from pydantic import BaseModel

from edge_lib.config import ConfigError, from_root
from edge_lib.data.table import SCHEMA, Table, fingerprint_files
from edge_lib.runs import whole_file


def made_once(path: Path, rows: Callable[[], Iterator[dict]], name: str) -> Table:
    """The table in a Parquet file under the cache, whose rows are made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _write_parquet(path, rows())
    return read_parquet([path], name, path.parents[1], {})


def version_of(config: BaseModel, *modules: ModuleType) -> str:
    """Changes with the config and with the code that draws, speaks or asks."""
    code = (Path(module.__file__).read_text() for module in modules)
    return hashlib.sha256("".join([config.model_dump_json(), *code]).encode()).hexdigest()[:12]


def _write_parquet(path: Path, rows: Iterator[dict]) -> None:
    with whole_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), temporary)


def matching(pattern: str, key: str) -> list[Path]:
    """The files that a pattern of the config names; ConfigError with its key if there is none."""
    path = from_root(pattern)
    found = sorted(map(Path, glob(str(path), recursive=True)))
    if not found:
        raise ConfigError(f"{key}: no file matches {path}")
    return found


def read_parquet(files: list[Path], name: str, cache_dir: Path, wanted: dict) -> Table:
    """Memory-mapped: `datasets` converts to Arrow once and keeps that under the cache.

    wanted: column in the files -> its name in the schema; all columns if empty.
    """
    for file in files:
        available = pq.read_schema(file).names
        missing = [column for column in wanted if column not in available]
        if missing:
            raise ConfigError(f"{file} has no column {missing}; it has {available}")
    dataset = Dataset.from_parquet(
        list(map(str, files)), cache_dir=str(cache_dir / "arrow"), columns=list(wanted) or None
    )
    dataset = dataset.rename_columns({old: new for old, new in wanted.items() if old != new})
    for column, kind in (("image", Image), ("audio", Audio)):
        if isinstance(dataset.features.get(column), kind):
            dataset = dataset.cast_column(column, kind(decode=False))
    return Table(dataset, name, fingerprint_files(files, *wanted))
