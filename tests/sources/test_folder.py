"""Folders of pictures and sounds: metadata, texts beside, classes, splits."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audio_helpers import encode, sine

from edge_lib.config import ConfigError, DataConfig
from edge_lib.sources import load_table

DIVIDE = {"val": 0.2, "test": 0.2}


@pytest.fixture
def folder(tmp_path, encode_image):
    """folder(name, ...) -> a folder with files of these names; picture n is 10 + n pixels wide."""
    root = tmp_path / "my [v2] pictures::*"
    root.mkdir()

    def fill(*names):
        for n, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            sound = name.endswith((".flac", ".wav"))
            suffix = name.rpartition(".")[2]
            content = (
                encode(sine(0.5, 16000, 200 + 10 * n), 16000, suffix.upper()) if sound else None
            )
            (root / name).write_bytes(content or encode_image(n, size=(10 + n, 8)))
        return root

    return fill


@pytest.fixture
def load(tmp_path):
    """load(folder, split, key=value) -> a table; with `divide`, of data.split."""

    def load(folder, split="train", divide=None, **keys):
        config = DataConfig(
            source="folder",
            folder={"path": folder, **keys},
            split=divide,
            cache_dir=tmp_path / "cache",
        )
        return load_table(config, split)

    return load


def ten(suffix="png"):
    return [f"{n}.{suffix}" for n in range(10)]


def whole(load, *arguments, **keys):
    """Ids, captions and picture sizes over all splits, sorted by id."""
    tables = [
        load(*arguments, split=split, divide=DIVIDE, **keys) for split in ("train", "val", "test")
    ]
    assert [len(table) for table in tables] == [6, 2, 2]
    rows = [
        (name, texts, image and image.size[0])
        for table in tables
        for name, texts, image in zip(
            table.ids, table.column("texts"), table.images(range(len(table))), strict=True
        )
    ]
    return sorted(rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_folder_reads_metadata(folder, load, suffix):
    root = folder(*ten(), "not listed.png")
    rows = [{"file_name": name, "text": f"of {name}", "key": n} for n, name in enumerate(ten())]
    file = root / f"metadata.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        file.write_text(
            "".join(",".join(map(str, r)) + "\n" for r in [rows[0], *(r.values() for r in rows)])
        )
    expected = [(f"{n}.png", [f"of {n}.png"], 10 + n) for n in range(10)]
    assert whole(load, root, caption_column="text") == expected
    assert whole(load, root, caption_column="text", id_column="key")[3] == ("3", ["of 3.png"], 13)
    with pytest.raises(
        ConfigError, match=r"no column 'caption'; it has 'file_name', 'text', 'key'"
    ):
        load(root, divide=DIVIDE)


def test_folder_reads_texts_beside_pictures(folder, load):
    root = folder(*ten())
    for n in range(9):
        (root / f"{n}.txt").write_text(f"\ufeffline one of {n}\n\nline two\n")
    (root / ".hidden.png").write_bytes(b"")
    (root / "Thumbs.db").write_bytes(b"")
    rows = whole(load, root)
    assert rows[3] == ("3.png", ["line one of 3", "", "line two"], 13)
    assert rows[9] == ("9.png", [], 19)
    captions = load(root, divide=DIVIDE).captions
    assert captions[:2] == [f"line one of {captions[0][-1]}", "line two"]


def test_folder_takes_the_names_of_classes_as_captions(folder, load):
    names = [f"{kind}/{n}.JPG" for kind in ("big_cat", "Hund süß") for n in range(5)]
    rows = whole(load, folder(*names))
    assert [row[1] for row in rows] == [["Hund süß"]] * 5 + [["big cat"]] * 5
    assert rows[7] == ("big_cat/2.JPG", ["big cat"], 12)


@pytest.mark.parametrize(
    "names",
    [ten(), [f"images/{name}" for name in ten()]],
    ids=["flat", "one folder"],
)
def test_folder_without_captions_is_an_error(folder, load, names):
    with pytest.raises(ConfigError, match=r"10 pictures or sounds without captions: no metadata"):
        load(folder(*names), divide=DIVIDE)


@pytest.mark.parametrize("keys", [{}, {"caption_column": None}], ids=["captions", "none"])
@pytest.mark.parametrize("names", [["notes.pdf"], []], ids=["no pictures", "empty"])
def test_folder_without_items_is_an_error(folder, load, names, keys):
    with pytest.raises(ConfigError, match=r"no pictures, no sounds and no \.txt files"):
        load(folder(*names), **keys)


def test_folder_has_folders_of_splits(folder, load):
    names = [f"{s}/{c}/{n}.png" for s in ("Train", "valid", "test") for c in "ab" for n in range(2)]
    root = folder(*names)
    tables = {split: load(root, split) for split in ("train", "val", "test")}
    assert [len(table) for table in tables.values()] == [4, 4, 4]
    assert tables["val"].images([3])[0].size == (17, 8)
    assert tables["val"].ids[3] == "b/1.png"
    assert len({table.fingerprint for table in tables.values()}) == 3
    with pytest.raises(ConfigError, match=r"data\.split\.test: .*test exists; set it to 0"):
        load(root, divide={"val": 0, "test": 0.5})


def test_folder_takes_val_from_train_where_only_test_exists(folder, load):
    root = folder(*(f"{s}/{c}/{n}.png" for s in ("train", "test") for c in "ab" for n in range(5)))
    divide = {"val": 0.2, "test": 0}
    tables = [load(root, split, divide) for split in ("train", "val", "test")]
    assert [len(table) for table in tables] == [8, 2, 10]


def test_folder_reads_the_metadata_of_splits(folder, load):
    root = folder("train/0.png", "train/1.png", "val/0.png", "test/0.png")
    for split in ("train", "val", "test"):
        (root / split / "metadata.csv").write_text(f"file_name,caption\n0.png,of {split}\n")
    assert [load(root, split).captions for split in ("train", "val", "test")] == [
        ["of train"],
        ["of val"],
        ["of test"],
    ]
    assert load(root, "test").images([0])[0].size == (13, 8)


def test_folder_reads_metadata_beside_the_folders_of_splits(folder, load):
    names = ["train/0.png", "train/1.png", "val/0.png", "test/0.png"]
    root = folder(*names)
    (root / "metadata.csv").write_text(
        "file_name,caption\n" + "".join(f"{n},of {n}\n" for n in names)
    )
    tables = {split: load(root, split) for split in ("train", "val", "test")}
    assert tables["train"].captions == ["of train/0.png", "of train/1.png"]
    assert tables["test"].captions == ["of test/0.png"]
    assert tables["test"].images([0])[0].size == (13, 8)


def test_folder_without_a_split_asks_for_one(folder, load):
    root = folder(*(f"{c}/{n}.png" for c in "ab" for n in range(5)))
    assert len(load(root)) == 10
    with pytest.raises(ConfigError, match=r"has no folder 'val'; .*or set data\.split"):
        load(root, "val")
    with pytest.raises(ConfigError, match=r"data\.folder\.path: no such folder /none"):
        load("/none")


def test_folder_reads_sounds_with_metadata(folder, load):
    root = folder(*ten("flac"))
    lines = [f"{name},say {n}" for n, name in enumerate(ten("flac"))]
    (root / "metadata.csv").write_text("\n".join(["file_name,transcription", *lines]))
    table = load(root, divide={"val": 0.4, "test": 0.1}, caption_column="transcription")
    assert len(table) == 5
    assert [len(clip) for clip in table.clips(range(5))] == [8000] * 5
    assert table.captions == [f"say {name[0]}" for name in table.ids]


def test_folder_pairs_pictures_and_sounds(folder, load):
    root = folder("train/a.png", "train/a.wav", "train/b.png", "train/b.jpg", "train/c.wav")
    for name in "abc":
        (root / f"train/{name}.txt").write_text(name)
    table = load(root)
    assert table.ids == ["a.png", "b.jpg", "b.png", "c.wav"]
    assert table.captions == ["a", "b", "b", "c"]
    assert [clip is None for clip in table.clips(range(4))] == [False, True, True, False]
    assert [i and i.size[0] for i in table.images(range(4))] == [10, 13, 12, None]


def test_folder_reads_file_names_of_pictures_and_sounds(folder, load):
    root = folder("train/a.png", "train/a.wav", "train/b.png")
    file = root / "train/metadata.csv"
    file.write_text("image_file_name,audio_file_name,caption\na.png,a.wav,x\nb.png,,y\n")
    table = load(root)
    assert [clip is None for clip in table.clips(range(2))] == [False, True]
    assert [image.size[0] for image in table.images(range(2))] == [10, 12]
    file.write_text("file_name,thumbnail_file_name,caption\na.png,b.png,x\n")
    with pytest.raises(ConfigError, match=r"'thumbnail_file_name': a second column of image files"):
        load(root)
    file.write_text("name,caption\na.png,x\n")
    with pytest.raises(ConfigError, match=r"no column 'file_name'; it has \['name', 'caption'\]"):
        load(root)


def test_folder_joins_the_captions_of_a_picture(folder, load):
    root = folder("train/a.png", "train/b.png")
    file = root / "train/metadata.csv"
    file.write_text("file_name,caption\na.png,one\nb.png,two\na.png,three\n")
    assert load(root).column("texts") == [["one", "three"], ["two"]]


def test_folder_fingerprint_follows_pictures_and_texts(folder, load, encode_image, tmp_path):
    root = folder(*(f"train/{c}/{n}.png" for c in "ab" for n in range(2)))
    before = load(root).fingerprint
    (root / "train/a/0.png").touch()
    moved = root.rename(tmp_path / "moved")
    assert load(moved).fingerprint == before
    (moved / "train/a/0.txt").write_text("now with a text")
    after = load(moved).fingerprint
    assert after != before
    (moved / "train/a/0.png").write_bytes(encode_image(9))
    assert load(moved).fingerprint not in (before, after)


def test_folder_without_columns_is_not_divided_by_one(folder, load):
    root = folder(*(f"{c}/{n}.png" for c in "ab" for n in range(5)))
    with pytest.raises(ConfigError, match=r"data\.split\.by: .* has no metadata with columns"):
        load(root, divide=DIVIDE | {"by": "patient"})


def test_folder_counts_texts_that_are_not_utf8(folder, load):
    root = folder("train/a.png", "train/b.png")
    (root / "train/a.txt").write_bytes("café".encode("latin-1"))
    (root / "train/b.txt").write_text("café")
    os.link(root / "train/b.png", os.fsencode(root) + b"/train/caf\xe9.png")
    table = load(root)
    assert table.captions == ["café"]
    assert [name[-12:] for name in table.skipped["a name that is not UTF-8"]] == [
        "caf\\udce9.png'"[-12:]
    ]
    assert table.skipped["a .txt that is not UTF-8"] == ["a.png"]


def test_folder_follows_links_once(folder, load, tmp_path):
    root = folder("elsewhere/c/2.png", "mine/train/a/0.png", "mine/train/b/1.png")
    (root / "mine/train/loop").symlink_to(root / "mine")
    (root / "mine/train/c").symlink_to(root / "elsewhere/c")
    assert list(load(root / "mine").ids) == ["a/0.png", "b/1.png", "c/2.png"]


def test_folder_rejects_metadata_without_rows(folder, load):
    root = folder("train/a.png")
    (root / "train/metadata.csv").write_text("file_name,caption\n")
    with pytest.raises(ConfigError, match=r"metadata\.csv has no rows"):
        load(root)
