"""A file to which records are appended, and which survives a process that is killed while it does.

A record is one write: its lengths, a checksum, fields as JSON and bytes. What is written is safe
from the death of the process; a power failure may cost the last records, which are then not there.
"""

import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HEAD = struct.Struct("<III")  # bytes of the fields, bytes of the content, CRC-32 of both


class Record(NamedTuple):
    """A record's fields, and where its content is in the file."""

    fields: dict
    start: int
    size: int


class Journal:
    """Appends to a file, from any thread."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()

    def append(self, fields: dict, content: bytes = b"") -> None:
        """Raises OSError, with the file as it was, if the disk is full."""
        text = json.dumps(fields).encode()
        checksum = zlib.crc32(content, zlib.crc32(text))
        record = b"".join([HEAD.pack(len(text), len(content), checksum), text, content])
        with self._lock:
            end = os.fstat(self._file).st_size
            try:
                while record:
                    record = record[os.write(self._file, record) :]
            except OSError:
                os.ftruncate(self._file, end)
                raise

    def close(self) -> None:
        os.close(self._file)


def recover(path: Path) -> list[Record]:
    """The records of a journal up to the first that is torn or damaged, where it is cut off."""
    if not path.exists() or not path.stat().st_size:
        return []
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            records = [*_records(data)]
        file.truncate(records[-1].start + records[-1].size if records else 0)
    return records


def _records(data: mmap.mmap) -> Iterator[Record]:
    position = 0
    while position + HEAD.size <= len(data):
        length, size, checksum = HEAD.unpack_from(data, position)
        start = position + HEAD.size + length
        position = start + size
        whole = length and position <= len(data)
        if not whole or zlib.crc32(data[start - length : position]) != checksum:
            return
        yield Record(json.loads(data[start - length : start]), start, size)
