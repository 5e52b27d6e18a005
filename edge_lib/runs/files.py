"""Read saved models, and write files and folders atomically."""

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_lib.config import ConfigError


def absolute_path(path: str | Path) -> Path:
    """`path`, taken relative to the working directory like every path of the Python API."""
    return Path(path).expanduser().absolute()


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_saved(folder: str | Path, name: str) -> dict:
    """The JSON file `name` that `save_pretrained` wrote. FileNotFoundError lists models inside
    `folder`; ConfigError if the file is damaged, or cannot be read.
    """
    folder = absolute_path(folder)
    if not (folder / name).is_file():
        inside = sorted(path.parent for path in folder.glob(f"**/checkpoints/best/{name}"))
        hint = f"; found in {', '.join(map(str, inside))}" if inside else ""
        raise FileNotFoundError(f"{folder}: no saved model (no {name}){hint}")
    try:
        content = json.loads((folder / name).read_text())
    except OSError as error:
        raise ConfigError(f"{folder / name} cannot be read: {error.strerror}") from None
    except ValueError as error:  # no JSON, or no text
        raise ConfigError(f"{folder / name} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{folder / name} is damaged: no JSON object")
    return content


def write_json(path: Path, content) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` on success, so that no reader sees a partial file."""
    temporary = _temporary_beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Like `whole_file` for a folder; it replaces an existing one on success."""
    folder = absolute_path(folder)
    temporary = _temporary_beside(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_beside(path: Path) -> Path:
    """A name that is not in use, by processes of other machines either."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")
