"""Find and read the files that a config names."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import glob
from pathlib import Path

import pyarrow as pa

from edge_lib.config import ConfigError, FilesConfig, from_root
from edge_lib.sources.split_names import SPLITS

SUFFIXES = {
    "image": {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2"},
    "audio": {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aiff"},
}


def match_files(patterns: Sequence[str], key: str) -> list[Path]:
    """The files that paths or glob patterns name, each once. A path that exists is no pattern.

    Raises ConfigError with the config's key for one that names no file.
    """
    if not patterns:
        raise ConfigError(f"{key} names no file")
    files: dict[Path, None] = {}
    for pattern in patterns:
        path = from_root(pattern)
        matches = [match for match in _matches(path) if match.is_file()]
        if path.is_dir():
            raise ConfigError(f"{key}: {path} is a folder; name its files, such as {path}/*")
        if not matches:
            raise ConfigError(f"{key}: no file matches {path}")
        files |= dict.fromkeys(matches)
    return list(files)


def named_files(section: FilesConfig, split: str, key: str) -> list[Path]:
    """The files of a split. ConfigError if it names none, or one that another split reads."""
    if not getattr(section, split):
        other = f"{key.rpartition('.')[0]}.split.{split}"
        raise ConfigError(f"{key}.{split} names no files; name some, or set {other}")
    return files_of_split({name: getattr(section, name) or [] for name in SPLITS}, split, key)


def _matches(path: Path) -> list[Path]:
    """What a pattern matches, sorted. The part of it that exists is taken literally, and so is a
    bracket, if nothing matches otherwise.
    """
    if path.exists():
        return [path]
    folder = next(parent for parent in path.parents if parent.exists())
    pattern = str(path.relative_to(folder))
    for text in (pattern, pattern.replace("[", "[[]")):
        if matches := glob(text, root_dir=folder, recursive=True):
            return sorted(folder / match for match in matches)
    return []


def files_of_split(patterns: dict[str, list[str]], split: str, key: str) -> list[Path]:
    """The files that the patterns of a split match. ConfigError if the config names none, or one
    that another split reads.
    """
    if split not in patterns:
        raise ConfigError(f"{key} has no split {split!r}, only {sorted(patterns)}")
    files = match_files(patterns[split], f"{key}.{split}")
    for other in patterns.keys() - {split}:
        others = {file for name in patterns[other] for file in _matches(from_root(name))}
        if shared := [file for file in files if file in others]:
            raise ConfigError(f"{key}: {split} and {other} both read {shared[0]}")
    return files


def existing_folder(path: Path, key: str) -> Path:
    """The path. ConfigError if it is no folder."""
    if not path.is_dir():
        raise ConfigError(f"{key}: no such folder {path}")
    return path


def path_of_split(paths: dict[str, Path], split: str, key: str) -> Path:
    """The file or folder of a split. ConfigError if the config names none, or it does not exist."""
    if split not in paths:
        raise ConfigError(f"{key} has no split {split!r}, only {sorted(paths)}")
    if not paths[split].exists():
        raise ConfigError(f"{key}.{split}: no such file {paths[split]}")
    return paths[split]


@contextmanager
def open_decompressed(path: Path) -> Iterator[io.BufferedReader]:
    """A file, decompressed if its name ends in .gz, .bz2, .zst, ... ConfigError if that fails."""
    try:
        with io.BufferedReader(pa.input_stream(path, compression="detect")) as file:
            yield file
    except OSError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_json(path: Path, key: str, field: str | None = None, **options):
    """The content of a JSON file, or of the field that holds its list. options: of `json.loads`.
    ConfigError if there is none.
    """
    try:
        content = json.loads(path.read_bytes(), **options)
        return content[field] if field and not isinstance(content, list) else content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        expected = f"JSON with a field {field!r}" if field else "JSON"
        raise ConfigError(f"{key}: {path} is not {expected}: {error!r}") from None
