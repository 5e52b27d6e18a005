"""Find, read and fingerprint the files that a config names."""

import hashlib
import json
import os
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from edge_lib.config import ConfigError, from_root


def match_files(patterns: Sequence[str], key: str) -> list[Path]:
    """The files that glob patterns match. ConfigError with the config's key if one matches none."""
    files = []
    for pattern in patterns:
        path = from_root(pattern)
        matches = sorted(map(Path, glob(str(path), recursive=True)))
        if not matches:
            raise ConfigError(f"{key}: no file matches {path}")
        files += matches
    return files


def path_of_split(paths: dict[str, Path], split: str, key: str) -> Path:
    """The file or folder of a split. ConfigError if the config names none, or it does not exist."""
    if split not in paths:
        raise ConfigError(f"{key} has no split {split!r}, only {sorted(paths)}")
    if not paths[split].exists():
        raise ConfigError(f"{key}.{split}: no such file {paths[split]}")
    return paths[split]


def read_json(path: Path, key: str, field: str | None = None):
    """The content of a JSON file, or of one of its fields. ConfigError if there is none."""
    try:
        content = json.loads(path.read_text())
        return content[field] if field else content
    except (ValueError, KeyError, TypeError) as error:
        expected = f"JSON with a field {field!r}" if field else "JSON"
        raise ConfigError(f"{key}: {path} is not {expected}: {error!r}") from None


def fingerprint_files(files: Sequence[Path], *facts: str) -> str:
    """A digest that names the content of files: of sizes, times and last 64 KB (Parquet keeps its
    column statistics there), and of other `facts`.
    """
    digest = hashlib.sha256("\n".join(facts).encode())
    for path in files:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
        with path.open("rb") as file:
            file.seek(max(0, stat.st_size - 65536))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def file_stamp(path: str) -> str:
    """Size and modification time of a file; empty if there is no such file."""
    try:
        stat = os.stat(path)
    except OSError:
        return ""
    return f"{stat.st_size} {stat.st_mtime_ns}"
