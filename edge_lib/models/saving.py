"""The folder of a saved model: its metadata as JSON, its weights as safetensors."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_lib.runs.files import whole_folder, write_json


@contextmanager
def model_folder(folder: str | Path, name: str, metadata: dict) -> Iterator[Path]:
    """A temporary folder with `metadata` in the JSON file `name`; it replaces `folder` on success.

    A relative path is relative to the working directory.
    """
    with whole_folder(folder) as temporary:
        write_json(temporary / name, metadata)
        yield temporary


def model_digest(folder: Path) -> str:
    """Of all weights in a saved model's folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
