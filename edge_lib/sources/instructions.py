"""Instructions without images, in Open-Orca's columns, as conversations of one exchange."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets

from edge_lib.config import ConfigError
from edge_lib.config.conversations import ConversationsConfig
from edge_lib.data.conversations import NO_IMAGE
from edge_lib.data.table import Table
from edge_lib.sources.files import fingerprint_files, match_files

ROLE_OF_COLUMN = {"system_prompt": "system", "question": "user", "response": "assistant"}


def add_instructions(table: Table, config: ConversationsConfig, split: str) -> Table:
    """The table, followed by the instructions of the split, if the config names any."""
    patterns = config.instructions.files.get(split, []) if config.instructions else []
    if not patterns:
        return table
    key = f"data.conversations.instructions.files.{split}"
    files = match_files(patterns, key)
    rows = Dataset.from_list([row for path in files for row in _instruction_rows(path, key)])
    both = concatenate_datasets([table.dataset, rows])
    return Table(both, f"{table.name} +", fingerprint_files(files, table.fingerprint))


def _instruction_rows(path: Path, key: str) -> Iterator[dict]:
    """A row for each instruction in a Parquet or jsonl file; a system prompt may be empty."""
    try:
        rows = _json_lines(path) if path.suffix == ".jsonl" else pq.read_table(path).to_pylist()
        if missing := {"question", "response"} - set().union(*rows):
            raise KeyError(*sorted(missing))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{key}: {path} does not have Open-Orca's columns: {error!r}") from None
    for number, row in enumerate(rows):
        turns = [{"role": role, "content": row.get(name)} for name, role in ROLE_OF_COLUMN.items()]
        yield {
            "id": f"{path.stem}-{number}",
            "image_id": NO_IMAGE,
            "turns": turns if (turns[0]["content"] or "").strip() else turns[1:],
            "kind": "instruction",
        }


def _json_lines(path: Path) -> list[dict]:
    with path.open() as file:
        return [json.loads(line) for line in file if line.strip()]
