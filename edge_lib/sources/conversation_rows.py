"""Rows of conversations, and of the images that they show."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from edge_lib.data.cells import read_cell
from edge_lib.data.conversations import NO_IMAGE
from edge_lib.sources.conversation_entries import (
    Columns,
    UnusableEntry,
    first_value,
    parse_conversation,
)
from edge_lib.sources.entries import encodable
from edge_lib.sources.parsed import SkippedEntry

EXTRA = ("kind", "answers", "image_id", "image_ids")  # taken from entries in the table's schema
COLUMNS = ("id", "image_id", "image", "audio", "turns", "image_ids", "kind", "answers")
File = tuple[str, dict]  # what tells it from others, and a cell {bytes, path}


class ConversationRows:
    """Turns entries into rows. A row holds the first image of its conversation; others get rows of
    their own, one for each file. Rows with one image file share its path as `image_id`.

    kind: of conversations whose entry names none.
    """

    def __init__(self, kind: str, columns: Columns = None):
        self.kind, self.columns = kind, columns
        self._others: dict[str, dict] = {}

    def read(
        self, entries: Iterable[tuple[str, object]], folder: Path
    ) -> Iterator[dict | SkippedEntry]:
        """The rows of entries with their names; relative paths are below `folder`."""
        for name, entry in entries:
            try:
                if isinstance(entry, SkippedEntry):
                    raise UnusableEntry(entry.reason)
                yield from self._rows(name, entry, folder)
            except UnusableEntry as error:
                keys = f" (keys: {', '.join(entry)})" if isinstance(entry, dict) else ""
                yield SkippedEntry(name, str(error), keys)

    def images(self) -> Iterator[dict]:
        """A row for each image file that is not the first of a conversation."""
        for path in sorted(self._others):
            yield self._others[path]

    def _rows(self, name: str, entry: dict | list, folder: Path) -> Iterator[dict]:
        conversation = parse_conversation(entry, self.columns)
        files = {
            kind: [_file(item, kind, folder, f"{name} {kind} {n}") for n, item in enumerate(items)]
            for kind, items in conversation.items.items()
        }
        in_schema = isinstance(entry, dict) and "turns" in entry and self.columns is None
        is_holder = in_schema and entry["turns"] is None  # of an image or a clip for other rows
        yield {
            "id": name,
            **_image_columns(files["image"]),
            "audio": next((cell for _, cell in files["audio"]), None),
            "turns": None if is_holder else conversation.turns,
            "kind": self.kind,
            **(_schema_columns(entry) if in_schema else {}),
        }
        for key, cell in files["image"][1:]:
            row = {"id": Path(key).name, "image_id": key, "image": cell}
            if cell["bytes"]:
                yield row
            else:
                self._others[key] = row


def _image_columns(images: list[File]) -> dict:
    key, cell = images[0] if images else (NO_IMAGE, None)
    keys = [key for key, _ in images] if len(images) > 1 else None
    return {"image_id": key, "image": cell, "image_ids": keys}


def _schema_columns(entry: dict) -> dict:
    """The columns of EXTRA that an entry has; keys are texts in the table."""
    values = {name: entry[name] for name in EXTRA if entry.get(name) is not None}
    for name in values.keys() & {"answers", "image_ids"}:
        listed = values[name] if isinstance(values[name], list) else [values[name]]
        values[name] = [encodable(str(value)) for value in listed if value is not None]
    for name in values.keys() & {"kind", "image_id"}:
        values[name] = encodable(str(values[name]))
    return values


def _file(item: object, kind: str, folder: Path, name: str) -> File:
    """The file that an entry names, or its content, which only `name` tells from others."""
    if isinstance(item, dict):
        encoded = item.get("data")  # OpenAI's audio: base64 without the head of a data URI
        uri = f"data:;base64,{encoded}" if isinstance(encoded, str) else None
        item = item.get("bytes") or uri or first_value(item, "path", "url")
    if isinstance(item, str) and item[:5].lower() == "data:":
        item = _decoded(item, kind)
    if isinstance(item, bytes) and item:
        return name, {"bytes": item, "path": None}
    if not isinstance(item, str) or not item.strip():
        raise UnusableEntry(f"{kind} is not a path")
    scheme, mark, rest = item.partition("://")
    if mark and scheme != "file":
        raise UnusableEntry(f"{kind} is a URL")
    path = encodable(str(_existing(folder, unquote(rest) if mark else item)))
    return path, {"bytes": None, "path": path}


def _existing(folder: Path, name: str) -> Path:
    """The path of a file, whose name may have been written by Windows."""
    path = folder / name
    return folder / name.replace("\\", "/") if "\\" in name and not path.exists() else path


def _decoded(uri: str, kind: str) -> bytes | None:
    try:
        return read_cell(uri)
    except ValueError as error:
        raise UnusableEntry(f"{kind} is not a data URI: {error}") from None
