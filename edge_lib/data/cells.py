"""Encoded images and clips: the bytes that a cell of a table stands for."""

import base64
from functools import reduce
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edge_lib.config import from_root
from edge_lib.data.columns import is_text


def read_cell(value) -> bytes | None:
    """The bytes of an encoded image or clip; None if the cell is null or empty.

    A cell is bytes; {bytes, path}, as Hugging Face `Image` and `Audio` columns store it; {path,
    offset, size}, a member of a tar file; or a text: a data URI, or the path of a file. Raises
    OSError for a file that cannot be read, ValueError for a malformed data URI or a file that ends
    before the member does.
    """
    if isinstance(value, str):
        return _decode_data_uri(value) if value[:5].lower() == "data:" else _read_file(value)
    if isinstance(value, dict):
        content = value.get("bytes")
        return content or _read_file(value.get("path"), value.get("offset"), value.get("size"))
    return value or None


def is_filled(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) bool: which cells are neither null nor a file's struct of nulls. No bytes are read."""
    filled = column.is_valid()
    if pa.types.is_struct(column.type):
        fields = [name for name in ("bytes", "path") if column.type.get_field_index(name) >= 0]
        valid = [pc.struct_field(column, name).is_valid() for name in fields]
        filled = reduce(pc.or_, valid) if valid else filled
    return filled.to_numpy()


def cell_paths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """(N,) the path that each cell refers to; null where the cell is null or holds the content."""
    if is_text(column.type):
        texts = column.cast(pa.large_string())
        return pc.if_else(pc.starts_with(texts, "data:", ignore_case=True), None, texts)
    nulls = pa.chunked_array([pa.nulls(len(column), pa.string())])
    if not pa.types.is_struct(column.type):
        return nulls
    fields = {field.name: pc.struct_field(column, field.name) for field in column.type}
    paths, content = fields.get("path", nulls).cast(pa.string()), fields.get("bytes")
    if content is None or pa.types.is_null(content.type):
        return paths
    has_content = pc.fill_null(pc.greater(pc.binary_length(content), 0), False)
    return pc.if_else(has_content, None, paths)


def _read_file(path: str | None, offset: int | None = None, size: int | None = None):
    """`size` bytes from `offset` on; by default the whole file."""
    if not path or not path.strip():
        return None
    with from_root(path).open("rb") as file:
        file.seek(offset or 0)
        content = file.read(-1 if size is None else size)
    if size is not None and len(content) < size:
        raise ValueError(f"{path} ends before byte {(offset or 0) + size:,}")
    return content or None


def _decode_data_uri(uri: str) -> bytes | None:
    """RFC 2397: data:[<type>][;base64],<data>; base64 may be URL-safe, broken into lines, or lack
    its padding.
    """
    head, comma, data = uri.partition(",")
    if not comma:
        raise ValueError("a data URI without a comma")
    content = unquote_to_bytes(data)
    if not head.rstrip().lower().endswith(";base64"):
        return content or None
    content = b"".join(content.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True) or None
