"""Parquet files, read through a memory map."""

from pathlib import Path

import pyarrow.parquet as pq
from datasets import Audio, Dataset, Image

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.files import fingerprint_files, match_files


def load(config: DataConfig, split: str) -> Table:
    """Images or audio with captions, in the columns that `data.parquet` names (PixMo's layout)."""
    source = config.parquet
    files = match_files(getattr(source, split), f"data.parquet.{split}")
    named = {
        source.image_column: "image",
        source.audio_column: "audio",
        source.caption_column: "texts",
        source.id_column: "id",
    }
    columns = {column: name for column, name in named.items() if column}
    return read_parquet(files, f"parquet {split}", config.cache_dir, columns)


def read_parquet(
    files: list[Path], name: str, cache_dir: Path, columns: dict[str, str] | None = None
) -> Table:
    """A memory-mapped table: `datasets` converts to Arrow once and keeps that under the cache.

    columns: column in the files -> its name in the schema; all columns by default. Raises
    ConfigError for a file that is not Parquet or lacks a column.
    """
    for file in files:
        available = _column_names(file)
        missing = [column for column in columns or () if column not in available]
        if missing:
            raise ConfigError(f"{file} has no column {missing}; it has {available}")
    dataset = Dataset.from_parquet(
        list(map(str, files)),
        cache_dir=str(cache_dir / "arrow"),
        columns=list(columns or ()) or None,
    )
    renamed = {old: new for old, new in (columns or {}).items() if old != new}
    dataset = dataset.rename_columns(renamed)
    for column, feature in (("image", Image), ("audio", Audio)):
        if isinstance(dataset.features.get(column), feature):
            dataset = dataset.cast_column(column, feature(decode=False))
    return Table(dataset, name, fingerprint_files(files, *(columns or ())))


def _column_names(file: Path) -> list[str]:
    try:
        return pq.read_schema(file).names
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(f"{file} is not a Parquet file: {error}") from None
