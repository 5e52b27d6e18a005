"""Cells of images and clips: where their bytes come from."""

import base64

import pyarrow as pa
import pytest

from edge_lib.config import from_root
from edge_lib.data.cells import is_filled, read_cell

CONTENT = bytes(range(256)) * 3


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a [v2] $1 ü.bin"
    path.write_bytes(CONTENT)
    return str(path)


def test_cell_of_bytes_is_its_bytes(file):
    assert read_cell(CONTENT) == CONTENT
    assert read_cell({"bytes": CONTENT, "path": file + "gone"}) == CONTENT


@pytest.mark.parametrize(
    "value",
    [None, b"", "", "  ", {}, {"bytes": None, "path": None}, {"bytes": b"", "path": ""}, "data:,"],
    ids=str,
)
def test_cell_without_content_is_none(value):
    assert read_cell(value) is None


def test_cell_with_a_path_is_the_file(file, tmp_path):
    assert read_cell(file) == read_cell({"bytes": None, "path": file}) == CONTENT
    (tmp_path / "empty").touch()
    assert read_cell(str(tmp_path / "empty")) is None
    readme = from_root("README.md").read_bytes()
    assert read_cell("README.md") == readme, "relative to the repository"


def test_cell_with_an_offset_is_a_part_of_a_file(file):
    assert read_cell({"path": file, "offset": 300, "size": 7}) == CONTENT[300:307]
    assert read_cell({"path": file, "offset": 0, "size": 1}) == CONTENT[:1]
    assert read_cell({"path": file, "offset": None, "size": None}) == CONTENT
    assert read_cell({"path": file, "offset": 5, "size": 0}) is None


def test_cell_beyond_the_end_of_its_file_is_an_error(file):
    with pytest.raises(ValueError, match=r"ends before byte 800"):
        read_cell({"path": file, "offset": 700, "size": 100})


def test_cell_with_a_path_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_cell(str(tmp_path / "gone.png"))
    with pytest.raises(IsADirectoryError):
        read_cell(str(tmp_path))


@pytest.mark.parametrize("alphabet", ["standard", "url-safe"])
@pytest.mark.parametrize("padding", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_data_uri_in_base64_is_decoded(alphabet, padding, extra):
    content = b"\xfb\xff\xfe" * 40 + b"x" * extra
    encode = base64.b64encode if alphabet == "standard" else base64.urlsafe_b64encode
    text = encode(content).decode()
    text = text if padding else text.rstrip("=")
    assert read_cell(f"data:image/png;base64,{text}") == content
    assert read_cell(f"DATA:;Base64,{text[:20]}\r\n {text[20:]}\n") == content
    escaped = text.replace("=", "%3D").replace("+", "%2B").replace("/", "%2F")
    assert read_cell(f"data:image/png;name=a;base64,{escaped}") == content


def test_data_uri_without_base64_is_unescaped():
    assert read_cell("data:text/plain;charset=utf-8,a%20b%FF+,c") == b"a b\xff+,c"


@pytest.mark.parametrize(
    "uri", ["data:image/png;base64", "data:;base64,a!b=", "data:;base64,abcde"]
)
def test_malformed_data_uri_is_an_error(uri):
    with pytest.raises(ValueError, match=r"comma|base64|data character"):
        read_cell(uri)


def test_filled_cells_have_bytes_or_a_path():
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string()), ("size", pa.int64())])
    cells = [None, (None, "a", 1), (b"x", None, None), (None, None, 3), (b"", None, None)]
    cells = [cell and dict(zip(("bytes", "path", "size"), cell, strict=True)) for cell in cells]
    column = pa.chunked_array([pa.array(cells[:2], kind), pa.array(cells[2:], kind)])
    assert is_filled(column).tolist() == [False, True, True, False, True]
    assert is_filled(pa.chunked_array([pa.nulls(2)])).tolist() == [False, False]
    assert is_filled(pa.chunked_array([["a", None]])).tolist() == [True, False]
