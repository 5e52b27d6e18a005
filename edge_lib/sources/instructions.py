"""Instructions, a question and a response a row (Open-Orca), as conversations of one exchange."""

from datasets import concatenate_datasets

from edge_lib.config import DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.conversation_files import ConversationFiles
from edge_lib.sources.files import files_of_split

KEY = "data.conversations.instructions.files"
COLUMNS = ["id", "image_id", "turns", "kind"]  # what text-only conversations need


def load(config: DataConfig, split: str) -> Table:
    """One row per instruction."""
    source = config.conversations.instructions
    files = files_of_split(source.files, split, KEY)
    columns = {
        "system": source.system_column,
        "user": source.question_column,
        "assistant": source.response_column,
    }
    conversations = ConversationFiles("instruction", files, f"{KEY}.{split}", columns=columns)
    return conversations.table(split, config.cache_dir)


def add_instructions(table: Table, config: DataConfig, split: str) -> Table:
    """The table, followed by the instructions of the split, if the config names any."""
    section = config.conversations
    if section.source == "instructions" or not (
        section.instructions and section.instructions.files.get(split)
    ):
        return table
    added = load(config, split)
    both = concatenate_datasets([table.dataset, added.dataset.select_columns(COLUMNS)])
    joined = Table(both, f"{table.name} +", f"{table.fingerprint}-{added.fingerprint}")
    for reason, names in [*table.skipped.items(), *added.skipped.items()]:
        joined.skipped[reason] += names
    return joined
