"""Paths of pictures and sounds in users' tables, made absolute."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from edge_lib.config import ConfigError
from edge_lib.data.columns import is_text
from edge_lib.sources.select import MEDIA

SAMPLE = 100  # paths that are looked up


def resolve_paths(table: pa.Table, folders: Sequence[Path], where: object) -> pa.Table:
    """The table with the paths of its pictures and sounds made absolute. They are relative to that
    of the folders in which most of the first ones exist.

    Raises ConfigError if none of them exists, or they are URLs. Data URIs and bytes stay.
    """
    for name in (name for name in MEDIA if name in table.column_names):
        column, place = table[name], f"{where}: {name}"
        if is_text(column.type):
            column = _absolute(column.cast(pa.string()), folders, place)
        elif pa.types.is_struct(column.type) and column.type.get_field_index("path") >= 0:
            column = _absolute_fields(column, folders, place)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _absolute_fields(
    cells: pa.ChunkedArray, folders: Sequence[Path], where: str
) -> pa.ChunkedArray:
    """Cells {bytes, path} or {path}; beside bytes the path is no more than a name."""
    fields = {field.name: pc.struct_field(cells, field.name) for field in cells.type}
    paths = fields["path"].cast(pa.string())
    held = fields["bytes"].is_valid() if "bytes" in fields else pc.is_null(paths)
    if pc.all(pc.or_(held, pc.is_null(paths))).as_py():
        return cells
    absolute = _absolute(pc.if_else(held, None, paths), folders, where)
    fields["path"] = pc.if_else(held, paths, absolute)
    arrays = [values.combine_chunks() for values in fields.values()]
    return pa.chunked_array([pa.StructArray.from_arrays(arrays, [*fields])])


def _absolute(cells: pa.ChunkedArray, folders: Sequence[Path], where: str) -> pa.ChunkedArray:
    cells = pc.if_else(pc.equal(pc.utf8_trim_whitespace(cells), ""), None, cells)
    cells = pc.replace_substring_regex(cells, "^file://", "")
    held = pc.starts_with(cells, "data:")
    sample = cells.filter(pc.invert(held)).drop_null()[:SAMPLE].to_pylist()
    if not sample:
        return cells
    if sample[0].startswith(("http://", "https://")):
        raise ConfigError(
            f"{where}: {sample[0]} is a URL; download the files, then name their paths"
        )
    counts = {folder: sum(_exists(folder, path) for path in sample) for folder in folders}
    folder = max(counts, key=counts.get)
    if not counts[folder]:
        if any("\\" in path for path in sample):  # written on Windows
            return _absolute(pc.replace_substring(cells, "\\", "/"), folders, where)
        tried = " or ".join(map(str, folders))
        raise ConfigError(f"{where}: no such file as {sample[0]} in {tried} ({len(sample)} tried)")
    kept = pc.or_(held, pc.match_substring_regex(cells, "^[/~]"))
    return pc.if_else(kept, cells, pc.binary_join_element_wise(f"{folder}", cells, "/"))


def _exists(folder: Path, path: str) -> bool:
    try:
        return (folder / Path(path).expanduser()).is_file()
    except (OSError, ValueError, RuntimeError):  # a text that no file can be called
        return False
