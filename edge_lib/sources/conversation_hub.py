"""Conversations in a data set of the Hugging Face Hub, or in a folder."""

from collections.abc import Iterator

from edge_lib.config import ROOT, DataConfig
from edge_lib.data.table import Table
from edge_lib.sources.conversation_files import choose_columns
from edge_lib.sources.conversation_rows import COLUMNS, ConversationRows
from edge_lib.sources.entries import BATCH_ROWS, batch_rows
from edge_lib.sources.hub import cache_files, open_split
from edge_lib.sources.parsed import SkippedEntry, parsed_table

KEY = "data.conversations.hub"


def load(config: DataConfig, split: str) -> Table:
    """One row per conversation."""
    source = config.conversations.hub
    dataset = open_split(source, split, config.cache_dir, KEY)
    used = choose_columns(dataset.features.arrow_schema, source.column, f"{KEY}: {source.name}")

    def parse() -> Iterator[dict | SkippedEntry]:
        rows, table = ConversationRows("hub", source.column), dataset.data.table.select(used)
        entries = (row for batch in table.to_batches(BATCH_ROWS) for row in batch_rows(batch))
        yield from rows.read(((f"{split}-{n}", row) for n, row in enumerate(entries)), ROOT)
        yield from rows.images()

    facts = [str(getattr(source, split)), str(source.column)]
    name, files = f"hub {split}", cache_files(dataset)
    return parsed_table(name, COLUMNS, parse, files, KEY, config.cache_dir, ROOT, facts)
