"""Files and folders that appear whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from edge_lib.config import from_root
from pathlib import Path
import json
import os
import shutil


def read_saved(folder: str | Path, name: str) -> dict:
    """What `save_pretrained` wrote of a model into folder/name. FileNotFoundError says where else
    there is one."""
    folder = from_root(folder)
    if not (folder / name).is_file():
        inside = sorted(path.parent for path in folder.glob(f"**/checkpoints/best/{name}"))
        hint = f"; there is one in {', '.join(map(str, inside))}" if inside else ""
        raise FileNotFoundError(f"{folder}: no saved model (no {name}){hint}")
    return json.loads((folder / name).read_text())


def write_json(path: Path, content) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` at the end, whole or not at all: a reader or a kill
    never meets half a file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """As `whole_file`, a folder; what was there before makes room at the end."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
