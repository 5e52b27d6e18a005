"""The folder of a saved model: its metadata as JSON, its weights as safetensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_lib.runs.files import absolute_path, whole_folder, write_json


@contextmanager
def model_folder(folder: str | Path, name: str, metadata: dict) -> Iterator[Path]:
    """A temporary folder with `metadata` in the JSON file `name`; it replaces `folder` on success.

    A relative path is relative to the working directory.
    """
    with whole_folder(absolute_path(folder)) as temporary:
        write_json(temporary / name, metadata)
        yield temporary
