"""Parquet files as tables: columns, patterns, splits, fingerprints."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audio_helpers import encode, sine
from datasets import Audio, Dataset, Features, Image, Value

from edge_lib.config import ConfigError, DataConfig, TableConfig
from edge_lib.sources import load_table, splits
from edge_lib.sources.parquet import read_parquet


@pytest.fixture
def write(tmp_path):
    """write(name, {column: values}) -> a Parquet file."""

    def write(name, columns):
        pq.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def load(tmp_path):
    """load(pattern, ...) -> the train table of what the patterns match."""

    def load(*patterns, **columns):
        files = list(map(str, patterns))
        parquet = TableConfig(train=files, val=["val.parquet"], test=["test.parquet"], **columns)
        config = DataConfig(source="parquet", parquet=parquet, cache_dir=tmp_path / "cache")
        return load_table(config, "train")

    return load


def test_parquet_reads_the_configured_columns(write, load, encode_image):
    file = write(
        "a.parquet",
        {
            "url": ["x", "y"],
            "picture": [encode_image(0), encode_image(1)],
            "alt": ["one", "two"],
            "key": ["k0", "k1"],
        },
    )
    table = load(file, image_column="picture", caption_column="alt", id_column="key")
    assert (table.ids, table.captions) == (["k0", "k1"], ["one", "two"])
    assert [image.size for image in table.images([0, 1])] == [(12, 10)] * 2


@pytest.mark.parametrize("swapped", [("image", "caption"), ("texts", "image")], ids="-".join)
def test_parquet_columns_may_have_names_of_the_schema(write, load, encode_image, swapped):
    image, caption = swapped
    file = write("a.parquet", {image: [encode_image()], caption: ["one"], "id": ["other"]})
    table = load(file, image_column=image, caption_column=caption)
    assert table.captions == ["one"]
    assert table.images([0])[0].size == (12, 10)
    assert table.ids == ["0"], "a column that the config does not name is not read"


def test_parquet_reads_several_captions_per_row(write, load, encode_image):
    captions = pa.array([["a", "b"], [], None, ["c", ""]])
    file = write("a.parquet", {"image": [*map(encode_image, range(4))], "caption": captions})
    table = load(file)
    assert table.captions == ["a", "b", "c"]
    assert table.caption_rows.tolist() == [0, 0, 3]


def test_parquet_joins_the_rows_of_a_picture(write, load, encode_image):
    images = [None if n is None else encode_image(n) for n in (0, 1, 0, None, 1, None)]
    table = load(write("a.parquet", {"image": images, "caption": list("abcdef")}))
    assert table.column("texts") == [["a", "c"], ["b", "e"], ["d"], ["f"]]
    assert table.dataset[1]["image"] == encode_image(1)
    cells = [{"bytes": encode_image(n), "path": f"{row}.png"} for row, n in enumerate((0, 1, 0))]
    write("b1.parquet", {"image": cells[2:], "caption": ["c"]})
    table = load(write("b0.parquet", {"image": cells[:2], "caption": ["a", "b"]}).with_name("b*"))
    assert table.column("texts") == [["a", "c"], ["b"]]


@pytest.mark.parametrize(
    "wrong", [{"image_column": "img"}, {"caption_column": "img"}, {"id_column": "img"}], ids=str
)
def test_parquet_error_lists_the_existing_columns(write, load, encode_image, wrong):
    file = write("a.parquet", {"image": [encode_image()], "caption": ["one"], "key": ["k"]})
    with pytest.raises(ConfigError, match=r"no column 'img' .*it has 'image', 'caption', 'key'"):
        load(file, **wrong)


def test_parquet_error_names_a_later_file_without_the_column(write, load, encode_image):
    write("a0.parquet", {"image": [encode_image()], "caption": ["one"]})
    later = write("a1.parquet", {"image": [encode_image()], "text": ["two"]})
    with pytest.raises(ConfigError, match=r"a1\.parquet"):
        load(later.with_name("a*.parquet"))


def test_parquet_reads_all_files_of_patterns_in_order(write, load, encode_image, tmp_path):
    for name in ("b3", "b1", "b4", "b0", "b2", "b5", "c"):
        write(f"{name}.parquet", {"image": [encode_image()], "caption": [name]})
    table = load(tmp_path / "b*.parquet", tmp_path / "c.parquet")
    assert table.captions == ["b0", "b1", "b2", "b3", "b4", "b5", "c"]
    assert load(tmp_path / "c.parquet", tmp_path / "b1.parquet").captions == ["c", "b1"]


def test_parquet_pattern_without_match_is_a_config_error(load, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.parquet\.train: no file matches .*none-\*"):
        load(tmp_path / "none-*.parquet")


def test_parquet_splits_read_their_own_files(write, encode_image, tmp_path):
    for name in ("train", "val", "test"):
        write(f"{name}.parquet", {"image": [encode_image()], "caption": [name]})
    files = {name: [str(tmp_path / f"{name}.parquet")] for name in ("train", "val", "test")}
    config = DataConfig(source="parquet", parquet=files, cache_dir=tmp_path / "cache")
    assert splits(config) == ("train", "val", "test")
    assert [load_table(config, split).captions for split in splits(config)] == [
        ["train"],
        ["val"],
        ["test"],
    ]


def test_parquet_keeps_hugging_face_images_encoded(load, encode_image, tmp_path):
    file = tmp_path / "hub.parquet"
    features = Features({"image": Image(), "caption": Value("string"), "extra": Value("int64")})
    cells = [{"bytes": encode_image(3), "path": "a.png"}, None, {"bytes": b"bad", "path": None}]
    columns = {"image": cells, "caption": ["a", "b", "c"], "extra": [0, 1, 2]}
    Dataset.from_dict(columns, features=features).to_parquet(file)
    table = load(file)
    assert table.dataset[0]["image"]["bytes"] == encode_image(3)
    images = table.images([0, 1, 2])
    assert images[0].size == (12, 10)
    assert images[1:] == [None, None]
    assert table.skipped == {"no image": ["1"], "image does not decode": ["2"]}


def test_parquet_reloads_a_changed_file_with_a_new_fingerprint(write, load, encode_image):
    columns = {"image": [encode_image()], "caption": ["one"]}
    file = write("a.parquet", columns)
    before = load(file)
    assert load(file).fingerprint == before.fingerprint
    write("a.parquet", {**columns, "caption": ["two"]})
    os.utime(file, (1e9, 1e9))
    after = load(file)
    assert after.captions == ["two"]
    assert after.fingerprint != before.fingerprint


def test_parquet_fingerprint_depends_on_columns_files_and_order(write, load, encode_image):
    columns = {"image": [encode_image()], "caption": ["one"], "alt": ["two"]}
    one, two = write("a.parquet", columns), write("b.parquet", {**columns, "alt": ["three"]})
    tables = [load(one), load(one, caption_column="alt"), load(two), load(one, two), load(two, one)]
    assert len({table.fingerprint for table in tables}) == 5


def test_parquet_reads_audio_without_images(tmp_path):
    clips = [
        {"bytes": encode(sine(0.5, 16000), 16000, "FLAC"), "path": None},
        {"bytes": b"broken", "path": None},
        None,
    ]
    columns = {"sound": clips, "sentence": ["one", "two", "three"]}
    features = Features({"sound": Audio(), "sentence": Value("string")})
    table = pa.table(columns).cast(features.arrow_schema)
    pq.write_table(table, tmp_path / "a.parquet")
    files = {"train": ["train.parquet"], "val": ["val.parquet"], "test": [f"{tmp_path}/a.parquet"]}
    names = {"image_column": None, "audio_column": "sound", "caption_column": "sentence"}
    config = DataConfig(
        source="parquet", parquet=TableConfig(**files, **names), cache_dir=tmp_path / "cache"
    )
    table = load_table(config, "test")
    clips = table.clips(range(3))
    assert [clip is None for clip in clips] == [False, True, True]
    assert len(clips[0]) == 8000
    assert table.skipped == {"audio does not decode": ["1"], "no audio": ["2"]}
    assert table.images([0]) == [None]


def test_damaged_page_is_refused_where_the_file_has_checksums(tmp_path):
    path = tmp_path / "a.parquet"
    texts = pa.array([[f"caption {number}"] for number in range(50)])
    pq.write_table(pa.table({"texts": texts}), path, compression=None, write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"caption 17", b"caption 18"))
    with pytest.raises(ConfigError, match=r"a\.parquet is damaged: .*CRC"):
        read_parquet([path], "damaged", tmp_path / "cache")


def test_page_with_impossible_values_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"texts": [[text] for text in "abcabcab"]}), path, compression=None)
    content, indices = path.read_bytes(), bytes([0b00100100, 0b01001001])  # 0, 1, 2, 0, 1, 2, 0, 1
    assert content.count(indices) == 1
    path.write_bytes(content.replace(indices, b"\xff\xff"))
    with pytest.raises(ConfigError, match=r"a\.parquet is damaged: .*dictionary"):
        read_parquet([path], "damaged", tmp_path / "cache")
