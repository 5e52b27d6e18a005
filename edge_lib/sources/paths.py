"""Paths of pictures and sounds in users' tables, made absolute."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from edge_lib.config import ConfigError
from edge_lib.data.cells import cell_paths
from edge_lib.data.columns import is_text
from edge_lib.sources.select import MEDIA

SAMPLE = 100  # paths that are looked up
LONGEST = 255  # characters of a path in an error
Styles = dict[str, tuple[int, bool]]  # column -> number of its folder, whether Windows wrote it


def resolve_paths(
    table: pa.Table, folders: Sequence[Path], where: object, styles: Styles | None = None
) -> pa.Table:
    """The table with the paths of its pictures and sounds made absolute. They are relative to that
    of the folders in which most of the first ones exist.

    styles: what the parts before have shown, to which this one adds. Raises ConfigError if none of
    the first paths exists. Data URIs and bytes stay.
    """
    styles = {} if styles is None else styles
    for name in (name for name in MEDIA if name in table.column_names):
        cells = table[name].cast(pa.string()) if is_text(table[name].type) else table[name]
        paths = cell_paths(cells).cast(pa.string())
        tidy = pc.replace_substring_regex(pc.utf8_trim_whitespace(paths), "^file://", "")
        tidy = pc.if_else(pc.equal(tidy, ""), None, tidy)
        sample = tidy.drop_null()[:SAMPLE].to_pylist()
        if sample and name not in styles:
            styles[name] = _style(sample, folders, f"{where}: {name}")
        absolute = _absolute(tidy, folders, *styles[name]) if sample else tidy
        cells = _with_paths(cells, paths.is_null(), absolute)
        table = table.set_column(table.column_names.index(name), name, cells)
    return table


def _style(sample: Sequence[str], folders: Sequence[Path], where: str) -> tuple[int, bool]:
    """The number of the folder in which most paths exist, and whether with backslashes replaced."""
    for windows in (False, True):
        names = [path.replace("\\", "/") for path in sample] if windows else sample
        counts = [sum(_exists(folder, name) for name in names) for folder in folders]
        if any(counts):
            return counts.index(max(counts)), windows
    if sample[0].startswith(("http://", "https://")):
        raise ConfigError(
            f"{where}: {sample[0][:LONGEST]} is a URL; download the files, then name their paths"
        )
    raise _no_file(sample[0], len(sample), folders, where)


def _no_file(path: str, number: int, folders: Sequence[Path], where: str) -> ConfigError:
    tried = " or ".join(map(str, folders))
    if len(path) > LONGEST:
        path = f"{path[:60]}... (base64 is written as a data URI, data:image/png;base64,...)"
    return ConfigError(f"{where}: no such file as {path} in {tried} ({number} tried)")


class MissingImages:
    """The absolute paths of a table's pictures, counted until one exists."""

    def __init__(self, folder: Path, where: str):
        self.folder, self.where = folder, where
        self._first, self._count, self._found = "", 0, False

    def add(self, part: pa.Table) -> None:
        """Look up those of the next rows."""
        if self._found or "image" not in part.column_names:
            return
        paths = cell_paths(part["image"]).drop_null().to_pylist()
        self._found = any(_exists(self.folder, path) for path in paths)
        self._first, self._count = self._first or "".join(paths[:1]), self._count + len(paths)

    def check(self) -> None:
        """ConfigError if there are paths, and none exists: some may be missing, not all."""
        if self._count and not self._found:
            path = self._first.removeprefix(f"{self.folder}/")
            raise _no_file(path, self._count, [self.folder], f"{self.where}: image")


def _exists(folder: Path, path: str) -> bool:
    try:
        return (folder / (Path(path).expanduser() if path[:2] == "~/" else path)).is_file()
    except (OSError, ValueError):  # a text that no file can be called
        return False


def _absolute(
    paths: pa.ChunkedArray, folders: Sequence[Path], number: int, windows: bool
) -> pa.ChunkedArray:
    paths = pc.replace_substring(paths, "\\", "/") if windows else paths
    joined = pc.binary_join_element_wise(f"{folders[number]}", paths, "/")
    absolute = pc.match_substring_regex(paths, "^(/|~/)")  # but not ~$photo.jpg
    return pc.if_else(absolute, paths, joined)


def _with_paths(
    cells: pa.ChunkedArray, held: pa.ChunkedArray, paths: pa.ChunkedArray
) -> pa.ChunkedArray:
    """Cells with other paths, where they do not hold the content."""
    if not pa.types.is_struct(cells.type):
        return pc.if_else(held, cells, paths) if is_text(cells.type) else cells
    fields = {field.name: pc.struct_field(cells, field.name) for field in cells.type}
    if "path" not in fields or pc.all(held).as_py():
        return cells
    fields["path"] = pc.if_else(held, fields["path"].cast(pa.string()), paths)
    arrays = [values.combine_chunks() for values in fields.values()]
    return pa.chunked_array([pa.StructArray.from_arrays(arrays, [*fields])])
