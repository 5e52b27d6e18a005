"""Read saved models, and write files and folders atomically."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_lib.config import ConfigError


def absolute_path(path: str | Path) -> Path:
    """`path`, taken relative to the working directory like every path of the Python API."""
    return Path(path).expanduser().absolute()


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_of(path) == digest


def file_digests(folder: Path, without: Collection[Path] = ()) -> dict[str, str]:
    """SHA-256 of each file below a folder; of none below the folders `without`."""
    left_out, paths = {*without}, (path for path in sorted(folder.rglob("*")) if path.is_file())
    own = (path for path in paths if left_out.isdisjoint(path.parents))
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in own}


def read_json(path: Path) -> Any:
    """The content of a file; ConfigError if it is damaged, or cannot be read."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # no JSON, or no text
        raise ConfigError(f"{path} is damaged: {error}") from None


def read_saved(folder: str | Path, name: str) -> dict:
    """The JSON file `name` that `save_pretrained` wrote. FileNotFoundError lists models inside
    `folder`; ConfigError if the file is damaged, or cannot be read.
    """
    folder = absolute_path(folder)
    if not (folder / name).is_file():
        inside = sorted(path.parent for path in folder.glob(f"**/checkpoints/best/{name}"))
        hint = f"; found in {', '.join(map(str, inside))}" if inside else ""
        raise FileNotFoundError(f"{folder}: no saved model (no {name}){hint}")
    content = read_json(folder / name)
    if not isinstance(content, dict):
        raise ConfigError(f"{folder / name} is damaged: no JSON object")
    return content


def write_json(path: Path, content) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def full_disk_errors(path: Path) -> Iterator[None]:
    """ConfigError if the disk of `path` is full: write errors do not name the file, and those of
    libraries often not even the cause.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not (reason := _full_disk(error, path)):
            raise
        raise ConfigError(f"{path}: {reason}; make room, and the same command goes on") from error


def _full_disk(error: Exception, path: Path) -> str:
    """That the disk of `path` is full, in words, if the error came of it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return os.strerror(error.errno)  # pyarrow's own text is longer
    full = "No space left" in str(error) or is_full_disk(path)
    return "No space left on device" if full else ""


def is_full_disk(path: Path) -> bool:
    """Whether no space is left at a path, which need not exist."""
    folder = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(folder).free < 1 << 16


def replace_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` on success, so that no reader sees a partial file."""
    temporary = _temporary_beside(path)
    try:
        with full_disk_errors(path):
            yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Like `whole_file` for a folder; it replaces an existing one on success."""
    folder = absolute_path(folder)
    temporary = _temporary_beside(folder)
    try:
        with full_disk_errors(folder):
            temporary.mkdir(parents=True)
            yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_beside(path: Path) -> Path:
    """A name that is not in use, by processes of other machines either."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")
