"""The data section made from a path: folders, tables, recognised columns."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audio_helpers import encode, sine

from edge_lib.config import ConfigError
from edge_lib.sources import load_table
from edge_lib.sources.own_files import data_of_path, own_splits


@pytest.fixture
def load(tmp_path):
    """load(path, split) -> the table of a path."""

    def load(path, split="train", **columns):
        data = data_of_path(path, **columns).model_copy(update={"cache_dir": tmp_path / "cache"})
        return load_table(data, split)

    return load


@pytest.fixture
def pictures(tmp_path, encode_image):
    """pictures(name, ...) -> a folder with pictures of these names."""
    folder = tmp_path / "my [v2] pictures"

    def fill(*names):
        for n, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encode_image(n, size=(10 + n, 8)))
        return folder

    return fill


def has(table):
    return {name for name in ("image", "audio", "texts") if table.has(name).any()}


def test_folder_needs_no_captions(pictures, load):
    table = load(pictures("a.png", "trips/rome/b.JPG", "trips/oslo/c.webp"))
    assert table.ids[:] == ["a.png", "trips/oslo/c.webp", "trips/rome/b.JPG"]
    assert has(table) == {"image"}
    assert not table.skipped


def test_folder_reads_the_captions_that_are_beside(pictures, load):
    folder = pictures("a.png", "b.png")
    (folder / "b.txt").write_text("one\n\ntwo")
    table = load(folder)
    assert table.captions == ["one", "two"]
    assert table.caption_rows.tolist() == [1, 1]
    assert len(table) == 2


def test_folder_of_texts_has_a_row_for_each_file(tmp_path, load):
    (tmp_path / "notes").mkdir()
    for name, text in {"b.txt": "x\ny", "a.TXT": "z", "c.md": "no"}.items():
        (tmp_path / "notes" / name).write_text(text)
    table = load(tmp_path / "notes")
    assert (has(table), table.captions[:]) == ({"texts"}, ["z", "x", "y"])
    assert [table.ids[row] for row in table.caption_rows] == ["a.TXT", "b.txt", "b.txt"]


def test_folder_of_sounds_and_pictures_has_both(pictures, load):
    folder = pictures("a.png")
    (folder / "b.wav").write_bytes(encode(sine(0.5, 16000), 16000, "WAV"))
    table = load(folder)
    assert has(table) == {"image", "audio"}
    assert table.has("image").tolist() == [True, False]


@pytest.mark.parametrize("name", ["caption", "text", "Title"])
def test_folder_recognises_the_captions_of_its_metadata(name, pictures, load):
    folder = pictures("a.png", "b.png")
    (folder / "metadata.csv").write_text(f"file_name,{name}\nb.png,two\na.png,one\n")
    table = load(folder)
    assert (table.captions[:], table.ids[:]) == (["two", "one"], ["b.png", "a.png"])


def test_folder_with_metadata_without_captions(pictures, load):
    folder = pictures("a.png", "b.png")
    (folder / "metadata.csv").write_text("file_name,width\nb.png,2\na.png,1\n")
    assert has(load(folder)) == {"image"}


def test_folder_takes_named_columns_of_its_metadata(pictures, load):
    folder = pictures("a.png")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "alt": "x", "n": 7}))
    table = load(folder, caption_column="alt", id_column="n")
    assert (table.captions[:], table.ids[:]) == (["x"], ["7"])


def test_folder_of_splits_has_them_all(pictures, load):
    folder = pictures("train/a.png", "Validation/b.png", "Validation/c.png")
    data = data_of_path(folder)
    assert own_splits(data) == ["train", "val"]
    assert [len(load(folder, split)) for split in own_splits(data)] == [1, 2]


def test_table_of_texts_alone(tmp_path, load):
    path = tmp_path / "t.csv"
    path.write_text("uid;text\n1;a b\n2;c\n")
    table = load(path)
    assert (has(table), table.captions[:], table.ids[:]) == ({"texts"}, ["a b", "c"], ["1", "2"])


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_table_recognises_paths_of_pictures(suffix, pictures, load):
    folder = pictures("a.png", "b.png")
    rows = [{"filename": "b.png", "Caption": "two"}, {"filename": "a.png", "Caption": "one"}]
    path, tab = folder / f"t.{suffix}", "\t" if suffix == "tsv" else ","
    lines = [tab.join(row) for row in [rows[0].keys(), *(row.values() for row in rows)]]
    texts = {"jsonl": "\n".join(map(json.dumps, rows)), "json": json.dumps(rows)}
    path.write_text(texts.get(suffix, "\n".join(lines)))
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    table = load(path)
    assert [image.size for image in table.images([0, 1])] == [(11, 8), (10, 8)]
    assert table.captions == ["two", "one"]
    assert table.paths("image", [1]) == [str(folder / "a.png")]


def test_table_recognises_paths_of_sounds_by_their_suffix(tmp_path, load):
    (tmp_path / "s.flac").write_bytes(encode(sine(0.5, 16000), 16000, "FLAC"))
    (tmp_path / "t.csv").write_text("path\ns.flac\n")
    table = load(tmp_path / "t.csv")
    assert has(table) == {"audio"}
    assert table.clips([0])[0].shape == (8000,)


def test_table_is_read_from_several_files(tmp_path, load):
    for n in (2, 1):
        (tmp_path / f"part-{n}.csv").write_text(f"text\nof {n}\n")
    assert load(tmp_path / "part-*.csv").captions == ["of 1", "of 2"]


def test_named_columns_precede_recognised_ones(tmp_path, load):
    (tmp_path / "t.csv").write_text("caption,alt\na,b\n")
    assert load(tmp_path / "t.csv", caption_column=["alt"]).captions == ["b"]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("t.csv", "a,b\n1,2\n", {}, r"t\.csv: none of \['a', 'b'\] is recognised as pictures"),
        ("t.csv", "text\n", {}, r"t\.csv has no rows"),
        ("t.csv", "text\na\n", {"caption_column": "txt"}, r"no column 'txt' \(did you mean 'text'"),
        ("t.tar", "", {}, r"t\.tar: expected a folder, a config \(\.yaml\) or a table \(\.csv,"),
        ("t.parquet", "text\na\n", {}, r"t\.parquet is not a Parquet file"),
        ("f/notes.pdf", "", {}, r"no pictures, no sounds and no .txt files"),
        ("f/a.png", "", {"caption_column": "x"}, r"f has no metadata with columns, thus no cap"),
        ("f/a.png", "", {"image_column": "x"}, r"f: a folder has no image_column"),
    ],
    ids=["no column", "no row", "typo", "tar", "not parquet", "no pictures", "metadata", "folder"],
)
def test_unusable_path_is_one_error(name, content, columns, message, tmp_path, load):
    (tmp_path / "f").mkdir()
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / name.split("/")[0], **columns)


def test_missing_path_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"source: no file matches .*/pictrues"):
        data_of_path(tmp_path / "pictrues")
