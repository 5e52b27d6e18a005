"""The list of a download as it was copied into its folder: a record batch for each shard.

Apart from what copies it, so that the processes which read it start quickly.
"""

import json
from pathlib import Path

import pyarrow as pa

FOLDER = "list"  # of a download
ROWS, FACTS = "rows.arrow", "list.json"


class UrlList:
    """The rows of a download: `row` (number in the list), `url`, `caption`, and maybe another.

    facts: source, sha256 and stamps of its files, and skipped: rows that could not be read.
    """

    def __init__(self, out: Path):
        self.facts = json.loads((out / FOLDER / FACTS).read_text())
        self._file = pa.ipc.open_file(pa.memory_map(str(out / FOLDER / ROWS)))
        self.shards = self._file.num_record_batches

    @staticmethod
    def exists(out: Path) -> bool:
        return (out / FOLDER).is_dir()

    def shard(self, number: int) -> pa.Table:
        return pa.Table.from_batches([self._file.get_batch(number)])

    def lengths(self) -> list[int]:
        """The rows of each shard."""
        full, last = len(self.shard(0)), len(self.shard(self.shards - 1))
        return [full] * (self.shards - 1) + [last]
