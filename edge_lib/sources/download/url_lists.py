"""Lists of URLs with captions, in the formats of tables, copied once into the folder of a download.

The copy holds the rows that are to be fetched, a record batch for each shard, so that processes map
the rows of a shard and nothing more.
"""

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edge_lib.config import ConfigError
from edge_lib.runs.files import sha256_of, whole_folder, write_json
from edge_lib.sources.arrow import SkippedNames
from edge_lib.sources.csv_files import read_csv
from edge_lib.sources.download.base import SUMMARY
from edge_lib.sources.download.url_list import FACTS, FOLDER, ROWS, UrlList
from edge_lib.sources.files import match_files
from edge_lib.sources.parquet import is_parquet, open_parquet
from edge_lib.sources.select import select_columns
from edge_lib.sources.tabular import column_names, read_named

SUFFIXES = {".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson"}
COMPRESSED = {".gz", ".bz2", ".zst"}
LARGEST = 1_000_000_000  # rows that numpy draws from


@dataclass(frozen=True)
class ListFormat:
    """The columns of a list. extra: a further one that is kept, where it exists; header: the names
    of the columns of a tsv that has no header.
    """

    url: str
    caption: str
    extra: str | None = None
    header: tuple[str, ...] = ()


def list_files(path: Path) -> list[Path]:
    """The files that a path, a glob pattern or a folder stands for. ConfigError if none."""
    if not path.is_dir():
        return match_files([str(path)], "list")
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and _is_list(file, path)]
    if not files:
        raise ConfigError(f"list: no file in {path} ends in {', '.join(sorted(SUFFIXES))}")
    return files


def _is_list(file: Path, folder: Path) -> bool:
    """By its name. A download from the Hub has its summary beside the files, and hidden folders
    with what huggingface_hub remembers of each.
    """
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    suffixes = [suffix for suffix in file.suffixes if suffix not in COMPRESSED]
    other = hidden or file.name == SUMMARY
    return not other and not SUFFIXES.isdisjoint(suffixes[-1:])


def list_sha256(path: Path, out: Path) -> str:
    """Of the content of a list's files. It is remembered with the copy in `out`, for as long as the
    files have the same sizes and times, or are gone.
    """
    facts = UrlList(out).facts if UrlList.exists(out) else {"source": None}
    if facts["source"] == str(path):
        try:
            stamps = _stamps(list_files(path))
        except ConfigError:
            return facts["sha256"]
        if stamps == facts["stamps"]:
            return facts["sha256"]
    return _sha256(_stamps(list_files(path)))


def copy_list(
    path: Path,
    form: ListFormat,
    out: Path,
    shard_rows: int,
    rows: int | None,
    seed: int,
    source: object = None,
) -> None:
    """Write the rows to fetch, of the list or of a random part, with their numbers in the list.
    source: where the list is from, as JSON, if that is not its path.

    Raises ConfigError for a missing column, one without URLs, and for `out` in the list's folder.
    """
    if out.resolve().is_relative_to(path.resolve()):
        raise ConfigError(
            f"list: {path} contains the folder to write, {out}, whose files would be read as lists "
            "when the download is resumed; choose another folder"
        )
    files, skipped = list_files(path), defaultdict(list)
    stamps = _stamps(files)
    facts = {"source": source or str(path), "sha256": _sha256(stamps), "stamps": stamps}
    parts = _numbered(_read(files, form, skipped))
    if rows:
        parts = sample_rows(parts, _count(files, form), rows, seed)
    parts = (part for part in parts if len(part))
    first = next(parts, None)
    if first is None:
        raise ConfigError(f"{files[0]} has no rows")
    _check_urls(first["url"], files[0], form)
    for leftover in out.glob(f".{FOLDER}.*"):  # of a killed process
        shutil.rmtree(leftover)
    with whole_folder(out / FOLDER) as folder:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(str(folder / ROWS), first.schema, options=options) as writer:
            for table in _cut(chain([first], parts), shard_rows):
                writer.write_table(table)
        facts["skipped"] = {reason: len(names) for reason, names in skipped.items() if names}
        write_json(folder / FACTS, facts)


def _stamps(files: Sequence[Path]) -> list[list]:
    """Path, size and time of each file, as JSON holds them."""
    stats = [file.stat() for file in files]
    return [[str(f), s.st_size, s.st_mtime_ns] for f, s in zip(files, stats, strict=True)]


def _sha256(stamps: list[list]) -> str:
    return _content_sha256(*map(tuple, stamps))


@cache  # a long list is read for its digest once, not at each step
def _content_sha256(*stamps: tuple[str, int, int]) -> str:
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        digest.update(bytes.fromhex(sha256_of(Path(path))))
    return digest.hexdigest()


def _read(files: Sequence[Path], form: ListFormat, skipped: SkippedNames) -> Iterator[pa.Table]:
    columns = {"url": [form.url], "caption": [form.caption]}
    if form.header:
        parts = ((file, part) for file in files for part in read_csv(file, skipped, form.header))
    else:
        if form.extra and form.extra in column_names(files[0]):
            columns["texts"] = [form.extra]
        parts = read_named(files, columns, skipped)
    for file, part in parts:
        table = select_columns(part, columns, file)
        table = table.set_column(0, "url", pc.utf8_trim_whitespace(table["url"]))
        yield table.rename_columns([form.extra if n == "texts" else n for n in table.column_names])


def _count(files: Sequence[Path], form: ListFormat) -> int:
    if all(map(is_parquet, files)):
        return sum(_parquet_rows(file) for file in files)
    return sum(len(part) for part in _read(files, form, defaultdict(list)))


def _parquet_rows(path: Path) -> int:
    with open_parquet(path) as file:
        return file.metadata.num_rows


def _numbered(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    start = 0
    for part in parts:
        yield part.add_column(0, "row", pa.array(range(start, start + len(part)), pa.int64()))
        start += len(part)


def _cut(parts: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of one chunk and `rows` rows; the last may have fewer."""
    rest = []
    for part in parts:
        rest.append(part)
        if sum(map(len, rest)) >= rows:
            table = pa.concat_tables(rest)
            whole = len(table) - len(table) % rows
            for start in range(0, whole, rows):
                yield table[start : start + rows].combine_chunks()
            rest = [table[whole:]]
    if table := pa.concat_tables(rest):
        yield table.combine_chunks()


def _check_urls(urls: pa.ChunkedArray, file: Path, form: ListFormat) -> None:
    """ConfigError if none of the first URLs is one."""
    texts = urls.drop_null()
    if len(texts) and not pc.any(pc.match_substring_regex(texts, r"^\w+://")).as_py():
        text = texts[0].as_py()[:80]
        raise ConfigError(f"{file}: column {form.url!r} has no URLs, but {text!r}")


def sample_rows(parts: Iterable[pa.Table], total: int, rows: int, seed: int) -> Iterator[pa.Table]:
    """`rows` of the `total` rows of all parts, each subset as likely as another.

    A part gets as many as a draw from all that are left gives it, so no list of rows is kept.
    """
    if total >= LARGEST:
        raise ConfigError(f"rows: the list has {total:,} rows; name fewer of its files")
    generator, wanted = np.random.default_rng(seed), min(rows, total)
    for part in parts:
        count = generator.hypergeometric(wanted, total - wanted, len(part)) if len(part) else 0
        numbers = generator.choice(len(part), count, replace=False, shuffle=False)
        yield part.take(pa.array(np.sort(numbers), pa.int64()))
        total, wanted = total - len(part), wanted - count
