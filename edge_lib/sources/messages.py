"""Conversations as chat models take them: `messages` in json, jsonl and Parquet files."""

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.conversation_files import ConversationFiles
from edge_lib.sources.files import existing_folder, files_of_split

KEY = "data.conversations.messages"


def load(config: DataConfig, split: str) -> Table:
    """One row per conversation; image files are read only when an image is decoded."""
    source, key = config.conversations.messages, f"{KEY}.files.{split}"
    files = files_of_split(source.files, split, f"{KEY}.files")
    images = source.images and existing_folder(source.images, f"{KEY}.images")
    conversations = ConversationFiles("messages", files, key, images, source.column)
    return conversations.table(split, config.cache_dir)
