"""Space on a disk, and files that have their names only when they are whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from edge_lib.config import ConfigError
from edge_lib.runs.files import full_disk_errors


def require_space(folder: Path, size: int, what: str) -> None:
    """ConfigError if the disk of a folder has less than `size` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ConfigError(
            f"{folder}: {what} needs {size / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are free; "
            "choose a folder on another disk (out)"
        )


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file that has its name only when it is whole. What a killed process leaves is
    overwritten by the next file of the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".partial")
    try:
        with full_disk_errors(path), temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON as `write_whole` does."""
    write_whole(path, lambda file: file.write(json.dumps(content).encode()))
