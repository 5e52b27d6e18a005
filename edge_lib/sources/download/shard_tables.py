"""The two Parquet files of a finished shard: its pictures, and the status of every row."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge_lib.runs.files import whole_file
from edge_lib.sources.download.journal import Record

FACTS = [("sha256", pa.string()), ("width", pa.int32()), ("height", pa.int32())]
PICTURE = pa.schema([("image", pa.binary()), *FACTS])
STATUS = pa.schema([("status", pa.string()), ("error", pa.string()), ("bytes", pa.int64()), *FACTS])
GROUP_BYTES = 2**26  # of pictures in one row group
READ_ROWS = 32  # with their pictures, in memory at once


def write_status(path: Path, rows: pa.Table, outcomes: Sequence[Record]) -> None:
    """outcomes: of each row."""
    table = pa.Table.from_pylist([record.fields for record in outcomes], STATUS)
    for name in ("url", "row"):
        table = table.add_column(0, name, rows[name])
    alive = sum(record.fields["status"] == "ok" for record in outcomes)
    _write(path, [table.replace_schema_metadata({"alive": str(alive)})])


def count_finished(pictures: Path, status: Path) -> int | None:
    """The rows of a shard whose two files are there, and agree; None if they do not."""
    try:
        metadata = pq.read_metadata(status)
        alive = int(metadata.metadata[b"alive"])
        agree = not alive or pq.read_metadata(pictures).num_rows == alive
    except (OSError, pa.ArrowInvalid):
        return None
    return metadata.num_rows if agree else None


def write_pictures(path: Path, rows: pa.Table, outcomes: Sequence[Record], journal: Path) -> None:
    """The rows with a picture, which is in the journal; no file if there is none."""
    groups = _groups(outcomes)
    if not groups:
        path.unlink(missing_ok=True)
        return
    with journal.open("rb") as file:
        descriptor = file.fileno()
        _write(path, (_pictures(rows, outcomes, group, descriptor) for group in groups))


def read_outcomes(pictures: Path, status: Path) -> Iterator[tuple[dict, bytes]]:
    """The outcome of each row of a finished shard, and its picture."""
    images = _images(pictures) if pictures.exists() else iter(())
    for fields in pq.read_table(status, columns=STATUS.names).to_pylist():
        yield fields, next(images) if fields["status"] == "ok" else b""


def _images(path: Path) -> Iterator[bytes]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(READ_ROWS, columns=["image"]):
            yield from batch["image"].to_pylist()


def _groups(outcomes: Sequence[Record]) -> list[list[int]]:
    """The rows with pictures, divided into groups that fit into memory."""
    groups, size = [], GROUP_BYTES
    for row, record in enumerate(outcomes):
        if record.fields["status"] == "ok":
            if size >= GROUP_BYTES:
                groups, size = [*groups, []], 0
            groups[-1].append(row)
            size += record.size
    return groups


def _pictures(
    rows: pa.Table, outcomes: Sequence[Record], group: list[int], descriptor: int
) -> pa.Table:
    """`image` and `caption` first, then where they are from."""
    records = [outcomes[row] for row in group]
    contents = (os.pread(descriptor, record.size, record.start) for record in records)
    pictures = [
        record.fields | {"image": content}
        for record, content in zip(records, contents, strict=True)
    ]
    table, listed = pa.Table.from_pylist(pictures, PICTURE), rows.take(group)
    for name in listed.column_names:
        table = table.append_column(name, listed[name])
    first = ["image", "caption", "url"]
    return table.select([*first, *(name for name in table.column_names if name not in first)])


def _write(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema, and flush them to the disk before they replace another file."""
    tables = iter(tables)
    table = next(tables)
    names = table.column_names
    options = {
        "compression": {name: "none" if name == "image" else "zstd" for name in names},
        "use_dictionary": False,
        "write_statistics": [name for name in names if name != "image"],
    }
    with whole_file(path) as temporary:
        with pq.ParquetWriter(temporary, table.schema, **options) as writer:
            writer.write_table(table)
            for table in tables:
                writer.write_table(table)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
