"""csv and tsv files, all of whose columns are read as text."""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from edge_lib.config import ConfigError
from edge_lib.sources.arrow import Skipped
from edge_lib.sources.files import open_decompressed

DELIMITERS = ",;\t|"
# a field of a tsv that begins with a quote and does not end with one: quotes are plain characters
PLAIN_QUOTE = re.compile(rb'(?:^|\t)"[^\t\n]*[^"\t\r\n](?=\t|\r?$)', re.MULTILINE)


def read_csv(file: Path, skipped: Skipped) -> Iterator[pa.Table]:
    """All rows, as one table. Lines with another number of fields than the header are skipped."""
    wrong = []

    def skip(row: csv.InvalidRow) -> str:
        wrong.append(f"{file.name}:{row.number}")
        return "skip"

    with open_decompressed(file) as stream:
        content = stream.read()
    delimiter = _delimiter(file, content)
    quoted = delimiter != "\t" or not PLAIN_QUOTE.search(content)
    if quoted and content.count(b'"') % 2:
        raise ConfigError(f'{file}: a quote (") is opened and not closed')
    try:
        yield csv.read_csv(
            pa.BufferReader(content),
            csv.ReadOptions(block_size=max(len(content), 1), use_threads=False),
            csv.ParseOptions(
                delimiter=delimiter,
                quote_char=quoted and '"',
                newlines_in_values=quoted,
                invalid_row_handler=skip,
            ),
            csv.ConvertOptions(default_column_type=pa.string()),
        )
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{file} is not a csv file in UTF-8: {error}") from None
    skipped["another number of fields than the header"] += wrong


def _delimiter(file: Path, content: bytes) -> str:
    if ".tsv" in file.suffixes:
        return "\t"
    header = content.partition(b"\n")[0].decode(errors="replace")
    return max(DELIMITERS, key=header.count)
