"""Mozilla Common Voice: a tsv with `path` and `sentence`, and the clips as mp3 beside it.

The fields of the tsv are not quoted, and some sentences hold a line break or a tab.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from edge_lib.config import ConfigError, DataConfig
from edge_lib.data.table import Table
from edge_lib.data.unicode import is_unicode
from edge_lib.sources.files import existing_folder
from edge_lib.sources.parsed import SkippedEntry, parsed_table
from edge_lib.sources.select import SPLIT_BY

COLUMNS = ("id", "audio", "texts")
CLIP = re.compile(r"\S+\.\w{2,4}|[0-9a-f]{32,}")  # the name of a clip, now and in old releases


def load(config: DataConfig, split: str) -> Table:
    """One row per clip, with its sentence as the caption."""
    source, key = config.common_voice, f"data.common_voice.{split}"
    path = _listing(source.folder, getattr(source, split), key)
    clips = existing_folder(source.folder / "clips", "data.common_voice.folder")
    by = config.split.by if config.split else None
    parse, columns = partial(_rows, path, clips, by), [*COLUMNS, *([SPLIT_BY] if by else [])]
    name, cache_dir = f"common_voice {split}", config.cache_dir
    return parsed_table(name, columns, parse, [path], key, cache_dir, clips, [str(by)])


def _listing(folder: Path, name: str | None, key: str) -> Path:
    """The tsv file of a split, which may be named without its ending."""
    if not name:
        raise ConfigError(
            f"{key} names no file; name one, or take the split from train: data.split"
        )
    path = next((p for p in (folder / name, folder / f"{name}.tsv") if p.is_file()), None)
    if path is None:
        available = ", ".join(sorted(file.name for file in folder.glob("*.tsv"))) or "no tsv file"
        raise ConfigError(f"{key}: no such file {folder / name}; there is {available}")
    return path


def _rows(path: Path, clips: Path, by: str | None) -> Iterator[dict | SkippedEntry]:
    with path.open("rb") as file:
        header = _decode(next(file, b"").removeprefix(BOM_UTF8)).rstrip("\t").split("\t")
        if missing := {"path", "sentence", by or "path"} - set(header):
            raise ConfigError(f"{path} has no column {sorted(missing)}; it has {header}")
        for number, fields in _records(file, header):
            row = dict(zip(header, fields, strict=False))
            if problem := _problem(row, fields, header):
                detail = f": line {number} has {len(fields)}, the header {len(header)}"
                yield SkippedEntry(f"line {number}", problem, detail)
            else:
                yield _row(row["path"], row["sentence"], clips) | {SPLIT_BY: row[by or "path"]}


def _problem(row: dict[str, str], fields: list[str], header: list[str]) -> str | None:
    """Why a record gives no row; None if it does."""
    if not all(map(is_unicode, fields)):
        return "not UTF-8"
    votes = [row.get(name, "") for name in ("up_votes", "down_votes")]
    if len(fields) != len(header) or not all(v.isdecimal() or not v for v in votes):
        return "fields do not match the header"
    return None if row["path"].strip() else "no name of a clip"


def _row(name: str, sentence: str, clips: Path) -> dict:
    """Old releases name clips without their ending."""
    path = clips / (name if Path(name).suffix else f"{name}.mp3")
    return {"id": name, "audio": {"bytes": None, "path": str(path)}, "texts": [sentence]}


def _records(lines: Iterable[bytes], header: list[str]) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line and the fields of each record. A line that does not begin with a
    clip belongs to the record before, if that lacks fields: the sentence has a line break.
    """
    number, record = 0, []
    for next_number, line in enumerate(lines, start=2):
        # empty fields after the header's last are left out
        fields = _decode(line).split("\t")
        while len(fields) > len(header) and not fields[-1]:
            fields.pop()
        if not any(fields):
            continue
        if record and _continues(record, fields, header):
            record = [*record[:-1], f"{record[-1]} {fields[0]}", *fields[1:]]
            continue
        if record:
            yield number, record
        number, record = next_number, fields
    if record:
        yield number, record


def _continues(record: list[str], fields: list[str], header: list[str]) -> bool:
    name = (fields + [""] * len(header))[header.index("path")]
    fits = len(record) < len(header) and len(record) + len(fields) - 1 <= len(header)
    return fits and not CLIP.fullmatch(name)


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r\n").decode(errors="surrogateescape").replace("\r", " ")
