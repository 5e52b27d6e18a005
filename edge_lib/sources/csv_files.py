"""csv and tsv files, all of whose columns are read as text.

Quotes that do not match are plain characters: such a line is divided at the delimiter alone.
"""

import csv
import io
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from edge_lib.data.unicode import is_unicode
from edge_lib.sources.arrow import SkippedNames
from edge_lib.sources.files import open_decompressed

DELIMITERS = ",;\t|"
MAX_LINES = 1000  # of one record: longer ones have a quote that is not closed
MAX_ROWS = 10_000  # in Python objects at once
csv.field_size_limit(2**31 - 1)  # data URIs are long


def read_csv(file: Path, skipped: SkippedNames, names: Sequence[str] = ()) -> Iterator[pa.Table]:
    """All rows, in parts. Lines with another number of fields than the header are skipped, and
    those that are not UTF-8.

    names: of the columns of a tsv without a header.
    """
    with open_decompressed(file) as stream:
        encoding = "utf-16" if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        lines = io.TextIOWrapper(stream, encoding, "surrogateescape", newline="")
        header = "" if names else next(filter(str.strip, lines), "")
        is_tsv = bool(names) or ".tsv" in file.suffixes
        delimiter = "\t" if is_tsv else max(DELIMITERS, key=header.count)
        if header:
            (names,) = csv.reader([header], delimiter=delimiter)
        records = _records(lines, delimiter, 2 if header else 1)
        while part := list(islice(records, MAX_ROWS)):
            rows = []
            for number, fields in part:
                if problem := _problem(fields, names):
                    skipped[problem].append(f"{file.name}:{number}")
                else:
                    rows.append(fields)
            columns = zip(*rows, strict=True) if rows else [()] * len(names)
            yield pa.Table.from_arrays([pa.array(c, pa.string()) for c in columns], names)


def _problem(fields: list[str], names: list[str]) -> str | None:
    if len(fields) != len(names):
        return "another number of fields than the header"
    return None if is_unicode("".join(fields)) else "not UTF-8"


def _records(lines: Iterator[str], delimiter: str, number: int) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line and the fields of each record. number: of the first."""
    waiting, used = deque(), []

    def feed() -> Iterator[str]:
        while waiting or (line := next(lines, None)) is not None:
            used.append(waiting.popleft() if waiting else line)
            # in a tsv, quotes that are plain are more frequent than fields with a line break
            if len(used) > (1 if delimiter == "\t" else MAX_LINES):
                raise csv.Error
            yield used[-1]

    while True:
        try:
            for fields in csv.reader(feed(), delimiter=delimiter, strict=True):
                if fields:
                    yield number, fields
                number += len(used)
                used.clear()
            return
        except csv.Error:
            yield number, used[0].rstrip("\r\n").split(delimiter)
            waiting.extendleft(reversed(used[1:]))
            number += 1
            used.clear()
