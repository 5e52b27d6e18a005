"""A shard of a URL download: a fixed range of the list's rows, fetched and then written as a whole.

A URL that several rows of a shard have is fetched once. Outcomes go to a journal; when all are
there, two Parquet files replace it.
"""

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.config import ConfigError
from edge_lib.runs.files import whole_file
from edge_lib.sources.download.content import Picture
from edge_lib.sources.download.journal import Journal, recover
from edge_lib.sources.download.shard_tables import (
    STATUS,
    count_finished,
    read_outcomes,
    write_pictures,
    write_status,
)


class ShardFiles(NamedTuple):
    """Where a shard is. It is finished when `status` exists, which is written last."""

    pictures: Path
    status: Path
    journal: Path


def shard_files(out: Path, number: int) -> ShardFiles:
    name = f"{number:05d}"
    return ShardFiles(
        out / f"train-{name}.parquet",
        out / f"status/{name}.parquet",
        out / f"partial/{name}.journal",
    )


@dataclass
class UrlShard:
    """A shard under way.

    rows: of `UrlList.shard`; copies: rows with the URL of a row; kept: outcomes that are known;
    left: row -> URL, for the others.
    """

    files: ShardFiles
    rows: pa.Table
    journal: Journal
    copies: Counter[int]
    kept: list[dict]
    left: dict[int, str]

    def record(self, key: int, picture: Picture) -> None:
        """Keep the outcome of the URL of row `key`, and of all rows with the same one."""
        fields = {name: getattr(picture, name, None) for name in STATUS.names}
        content = picture.content or b""
        self.journal.append(fields | {"key": key, "bytes": len(content) or None}, content)

    def finish(self) -> None:
        """Replace the journal by the Parquet files."""
        self.journal.close()
        records = {record.fields["key"]: record for record in recover(self.files.journal)}
        keys = first_rows(self.rows)
        if not records.keys() >= {*keys}:
            raise ConfigError(f"{self.files.journal} is damaged; run the same command again")
        outcomes = [records[key] for key in keys]
        write_pictures(self.files.pictures, self.rows, outcomes, self.files.journal)
        write_status(self.files.status, self.rows, outcomes)
        self.files.journal.unlink()


def open_shard(files: ShardFiles, rows: pa.Table, retried: Set[str]) -> UrlShard:
    """Begin a shard, or go on with it. retried: statuses of rows that are fetched again."""
    if files.status.exists() and not files.journal.exists():
        _restore_journal(files, rows, retried)
    latest = {record.fields["key"]: record.fields for record in recover(files.journal)}
    kept = [fields for fields in latest.values() if fields["status"] not in retried]
    known, copies = {fields["key"] for fields in kept}, Counter(first_rows(rows))
    urls = _urls(rows)
    left = {key: urls[key] for key in copies if key not in known}
    return UrlShard(files, rows, Journal(files.journal), copies, kept, left)


def first_rows(rows: pa.Table) -> list[int]:
    """(N,) the first row that has the URL of each row."""
    first: dict[str, int] = {}
    return [first.setdefault(url, row) for row, url in enumerate(_urls(rows))]


def _urls(rows: pa.Table) -> list[str]:
    return [url or "" for url in rows["url"].to_pylist()]


def is_finished(files: ShardFiles, length: int) -> bool:
    """Whether the files of a shard of so many rows are there, and whole."""
    return count_finished(files.pictures, files.status) == length


def has_status(files: ShardFiles, wanted: Set[str]) -> bool:
    """Whether a finished shard has rows of one of these statuses."""
    if not wanted:
        return False
    statuses = pq.read_table(files.status, columns=["status"])["status"]
    return not wanted.isdisjoint(statuses.unique().to_pylist())


def _restore_journal(files: ShardFiles, rows: pa.Table, retried: Set[str]) -> None:
    """The journal of a finished shard, without the rows that are fetched again."""
    keys, outcomes = first_rows(rows), read_outcomes(files.pictures, files.status)
    with whole_file(files.journal) as temporary:
        journal = Journal(temporary)
        for row, (fields, content) in enumerate(outcomes):
            if row == keys[row] and fields["status"] not in retried:
                journal.append(fields | {"key": row}, content)
        journal.close()
