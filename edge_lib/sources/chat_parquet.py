"""Conversations in Parquet files with the columns of `data.table.SCHEMA`."""

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.files import match_files
from edge_lib.sources.parquet import read_parquet

KEY = "data.conversations.parquet"


def load(config: DataConfig, split: str) -> Table:
    """The rows of a split; only the column `turns` is required."""
    patterns = config.conversations.parquet
    if split not in patterns:
        raise ConfigError(f"{KEY} has no split {split!r}, only {sorted(patterns)}")
    files = match_files(patterns[split], KEY)
    table = read_parquet(files, f"conversations {split}", config.cache_dir)
    if "turns" not in table.dataset.column_names:
        raise ConfigError(f"{files[0]} has no column 'turns'; it has {table.dataset.column_names}")
    return table
