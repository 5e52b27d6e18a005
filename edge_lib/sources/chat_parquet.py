"""Conversations in Parquet files, also in the columns of `data.table.SCHEMA`."""

from edge_lib.config import DataConfig
from edge_lib.config.base import ROOT
from edge_lib.data.table import Table
from edge_lib.sources.conversation_files import ConversationFiles
from edge_lib.sources.files import files_of_split

KEY = "data.conversations.parquet"


def load(config: DataConfig, split: str) -> Table:
    """One row per row of the files of a split."""
    files = files_of_split(config.conversations.parquet, split, KEY)
    conversations = ConversationFiles("parquet", files, f"{KEY}.{split}", ROOT)
    return conversations.table(split, config.cache_dir)
