"""Conversations in LLaVA's json (Liu et al. 2023, arXiv 2304.08485), images in a folder."""

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.conversation_files import ConversationFiles
from edge_lib.sources.files import existing_folder, path_of_split

KEY = "data.conversations.llava"


def load(config: DataConfig, split: str) -> Table:
    """One row per conversation; image files are read only when an image is decoded."""
    source, key = config.conversations.llava, f"{KEY}.files.{split}"
    path = path_of_split(source.files, split, f"{KEY}.files")
    images = existing_folder(source.images, f"{KEY}.images")
    return ConversationFiles("llava", [path], key, images).table(split, config.cache_dir)
