"""Sources: what a config's `data` section names, as tables of the one schema."""

import hashlib
import os
from collections.abc import Iterator
from glob import glob
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Image
from filelock import FileLock

from edge_lib.config import ConfigError, DataConfig, ParquetConfig, ScenesConfig, from_root
from edge_lib.data import scenes
from edge_lib.data.table import SCHEMA, Table, fingerprint_files


def splits(config: DataConfig) -> tuple[str, ...]:
    """The splits a source has; swap is the swap probe."""
    return (
        ("train", "val", "test", "swap") if config.source == "scenes" else ("train", "val", "test")
    )


def load_table(config: DataConfig, split: str) -> Table:
    """The table of one of `splits`."""
    return LOADERS[config.source](config, split)


def _load_scenes(config: DataConfig, split: str) -> Table:
    """Make the split's Parquet file on first use, then read it like any other."""
    path = config.cache_dir / f"scenes-{_scenes_version(config.scenes)}" / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _write_parquet(path, _scene_rows(config.scenes, split))
    return _read_parquet([path], f"scenes {split}", config.cache_dir)


def _scenes_version(config: ScenesConfig) -> str:
    """Changes with the config and with the code that draws."""
    text = config.model_dump_json() + Path(scenes.__file__).read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _scene_rows(config: ScenesConfig, split: str) -> Iterator[dict]:
    if split == "swap":
        groups = scenes.swap_pairs(config.swap_size, config.max_objects, config.seed)
    else:
        size = getattr(config, f"{split}_size")
        groups = scenes.twin_groups(split, size, config.max_objects, config.seed)
    number = count()
    for group, members in enumerate(groups):
        for scene in members:
            yield scenes.to_row(scene, split, next(number), group)


def _write_parquet(path: Path, rows: Iterator[dict]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _load_parquet(config: DataConfig, split: str) -> Table:
    """Parquet files in PixMo's shape; columns are found under the names the config gives."""
    source = config.parquet
    files = [path for pattern in getattr(source, split) for path in _matches(pattern, split)]
    return _read_parquet(files, f"parquet {split}", config.cache_dir, source)


def _matches(pattern: str, split: str) -> list[Path]:
    path = from_root(pattern)
    found = sorted(map(Path, glob(str(path), recursive=True)))
    if not found:
        raise ConfigError(f"data.parquet.{split}: no file matches {path}")
    return found


def _read_parquet(
    files: list[Path], name: str, cache_dir: Path, source: ParquetConfig | None = None
) -> Table:
    """Memory-mapped: `datasets` converts to Arrow once and keeps that under the cache."""
    wanted = {}
    if source:
        wanted = {source.image_column: "image", source.caption_column: "texts"}
        wanted |= {source.id_column: "id"} if source.id_column else {}
    for file in files:
        available = pq.read_schema(file).names
        missing = [column for column in wanted if column not in available]
        if missing:
            raise ConfigError(f"{file} has no column {missing}; it has {available}")
    dataset = Dataset.from_parquet(
        list(map(str, files)), cache_dir=str(cache_dir / "arrow"), columns=list(wanted) or None
    )
    dataset = dataset.rename_columns({old: new for old, new in wanted.items() if old != new})
    if isinstance(dataset.features.get("image"), Image):
        dataset = dataset.cast_column("image", Image(decode=False))
    return Table(dataset, name, fingerprint_files(files, *wanted))


LOADERS = {"scenes": _load_scenes, "parquet": _load_parquet}
