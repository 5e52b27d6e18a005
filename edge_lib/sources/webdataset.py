"""Tar shards in WebDataset's layout, read by index: the files of a sample have one name.

A name ends at the first dot of its last part, as in the `webdataset` package; or at the last dot,
where a sample would have two files of one type otherwise (22.05.png and 22.06.png).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.cells import read_cell
from edge_lib.data.columns import missing_column
from edge_lib.data.table import Table
from edge_lib.sources.arrow import SkippedNames, converted_table
from edge_lib.sources.entries import encodable, parse_json
from edge_lib.sources.files import SUFFIXES, named_files
from edge_lib.sources.json_files import json_value
from edge_lib.sources.parquet import column_of
from edge_lib.sources.parsed import SkippedEntry
from edge_lib.sources.select import MEDIA, SPLIT_BY, TEXTS, Columns, named_columns
from edge_lib.sources.tar import Member, read_members

CELL = pa.struct([("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())])
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", CELL),
        ("audio", CELL),
        ("texts", TEXTS),
        (SPLIT_BY, pa.string()),
    ]
)
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

MEDIA_SUFFIXES = set().union(*SUFFIXES.values())

Sample = dict[str, Member]  # extension -> file


def load(config: DataConfig, split: str) -> Table:
    """A row for each sample with a picture or sound; the files stay in the shards."""
    source = config.webdataset
    named = {name: _expand(getattr(source, name)) for name in ("train", "val", "test")}
    files = named_files(source.model_copy(update=named), split, "data.webdataset")
    columns = named_columns(source, config.split.by if config.split else None)
    convert = partial(_convert, files, columns)
    return converted_table(f"webdataset {split}", files, config.cache_dir, columns, convert)


def _expand(patterns: list[str] | None) -> list[str] | None:
    """Patterns with each range, such as {000..127}, replaced by its numbers."""
    if patterns is None:
        return None
    expanded = []
    for pattern in patterns:
        if match := RANGE.search(pattern):
            first, last = match.groups()
            numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
            expanded += _expand([pattern.replace(match[0], number) for number in numbers])
        else:
            expanded.append(pattern)
    return expanded


def _convert(files: list[Path], columns: Columns, skipped: SkippedNames) -> Iterator[pa.Table]:
    checked = False
    for file in files:
        samples = _samples(read_members(file, skipped), columns)
        if samples and not checked:
            _check_columns(file, samples, columns)
            checked = True
        rows = [_row(f"{file.stem}/{key}", s, columns, skipped) for key, s in samples.items()]
        yield pa.Table.from_pylist([row for row in rows if row], SCHEMA)


def _samples(members: Iterable[Member], columns: Columns) -> dict[str, Sample]:
    """The files of each sample by its name, in the order of the shard."""
    groups, samples = defaultdict(list), defaultdict(dict)
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        groups[f"{folder}{slash}{name.partition('.')[0]}"].append(member)
    for key, files in groups.items():
        extensions = {file.name.removeprefix(f"{key}.").lower(): file for file in files}
        if not _is_ambiguous(extensions, columns):
            samples[key] = extensions
            continue
        for file in files:
            stem, _, extension = file.name.rpartition(".")
            samples[stem][extension.lower()] = file
    return samples


def _is_ambiguous(extensions: Collection[str], columns: Columns) -> bool:
    """Whether several extensions end alike, unless one of them is named or is just this ending."""
    if any("." in column_of(column, extensions) for column in chain(*columns.values())):
        return False
    endings = Counter(extension.rpartition(".")[2] for extension in extensions)
    return any(count > 1 and ending not in extensions for ending, count in endings.items())


def _check_columns(file: Path, samples: dict[str, Sample], columns: Columns) -> None:
    for column in chain(*columns.values()):
        if all(_value(sample, column) is None for sample in samples.values()):
            fields = {name for sample in islice(samples.values(), 100) for name in _names(sample)}
            raise ConfigError(f"{file}: {missing_column(column, sorted(fields))}")


def _names(sample: Sample) -> Iterator[str]:
    """Extensions, and the fields of json files."""
    for extension in sample:
        yield extension
        content = _value(sample, extension) if extension.endswith("json") else None
        yield from (f"{extension}.{name}" for name in content or () if isinstance(content, dict))


def _row(name: str, sample: Sample, columns: Columns, skipped: SkippedNames) -> dict | None:
    media = {kind: _media(sample, kind, columns) for kind in MEDIA}
    if not any(media.values()):
        skipped["no picture or sound"].append(name)
        return None
    cells = {kind: member and asdict(member) for kind, member in media.items()}
    values = [_value(sample, column) for column in columns.get("texts") or _caption_columns(sample)]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    if any(not isinstance(text, str | None) for text in texts):
        skipped["a caption that is not a text"].append(name)
    by = next((_value(sample, column) for column in columns.get(SPLIT_BY, ())), None)
    by = None if by is None else encodable(str(by))
    texts = [encodable(text) for text in texts if isinstance(text, str)]
    return {"id": name, **cells, "texts": texts, SPLIT_BY: by}


def _media(sample: Sample, kind: str, columns: Columns) -> Member | None:
    """The file that is a sample's picture or sound."""
    if kind in columns:
        return sample.get(columns[kind][0].lower())
    return next(
        (m for extension, m in sample.items() if _suffix(extension) in SUFFIXES[kind]), None
    )


def _suffix(extension: str) -> str:
    return f".{extension.rpartition('.')[2]}"


def _caption_columns(sample: Sample) -> list[str]:
    texts = [extension for extension in sample if _suffix(extension) in (".txt", ".text")]
    return texts[:1] or ["json.caption"]


def _value(sample: Sample, column: str):
    """The content of a file, or of a field of a json file; None if there is none."""
    extension = column_of(column, sample)
    if extension not in sample:
        return None
    if _suffix(extension) in MEDIA_SUFFIXES:
        return True  # its content is not read here
    content = read_cell(asdict(sample[extension])) or b""
    if extension.endswith("json"):
        value, field = parse_json(content), column[len(extension) + 1 :]
        whole = not field or isinstance(value, SkippedEntry)  # which is no caption
        return value if whole else json_value(value, field)
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        return content  # bytes are no caption
    return lines[0] if len(lines) == 1 else lines
