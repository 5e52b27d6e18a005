"""Sources: from files of several shapes to one table."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value

from edge_lib.config import ConfigError, DataConfig, ParquetConfig, ScenesConfig
from edge_lib.data import scenes, sources
from edge_lib.data.sources import load_table, splits


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
        parquet = ParquetConfig(train=files, val=files, test=files, **columns)
        config = DataConfig(source="parquet", parquet=parquet, cache_dir=tmp_path / "cache")
        return load_table(config, "train")

    return load


@pytest.fixture
def small(tmp_path):
    sizes = {f"{split}_size": 8 for split in ("train", "val", "test")}
    scenes_config = ScenesConfig(**sizes, swap_size=3)
    return DataConfig(scenes=scenes_config, cache_dir=tmp_path / "cache")


def folder_of(config):
    (folder,) = config.cache_dir.glob("scenes-*")
    return folder


# --- parquet ---------------------------------------------------------------------------------


def test_columns_are_found_under_their_own_names(write, load, encode_image):
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


@pytest.mark.parametrize("swapped", [("image", "caption"), ("texts", "image")])
def test_names_of_ours_may_mean_something_else(write, load, encode_image, swapped):
    image, caption = swapped
    file = write("a.parquet", {image: [encode_image()], caption: ["one"], "id": ["theirs"]})
    table = load(file, image_column=image, caption_column=caption)
    assert table.captions == ["one"]
    assert table.images([0])[0].size == (12, 10)
    assert table.ids == ["0"], "a column nobody named is not read"


def test_several_captions_a_row(write, load, encode_image):
    captions = pa.array([["a", "b"], [], None, ["c", ""]])
    file = write("a.parquet", {"image": [encode_image()] * 4, "caption": captions})
    table = load(file)
    assert table.captions == ["a", "b", "c"]
    assert table.caption_rows.tolist() == [0, 0, 3]


@pytest.mark.parametrize(
    "wrong", [{"image_column": "img"}, {"caption_column": "img"}, {"id_column": "img"}]
)
def test_a_wrong_column_names_those_there_are(write, load, encode_image, wrong):
    file = write("a.parquet", {"image": [encode_image()], "caption": ["one"], "key": ["k"]})
    with pytest.raises(ConfigError, match=r"no column \['img'\].*'image', 'caption', 'key'"):
        load(file, **wrong)


def test_a_column_missing_from_a_later_file_is_named_too(write, load, encode_image):
    write("a0.parquet", {"image": [encode_image()], "caption": ["one"]})
    later = write("a1.parquet", {"image": [encode_image()], "text": ["two"]})
    with pytest.raises(ConfigError, match=r"a1\.parquet"):
        load(later.with_name("a*.parquet"))


def test_a_pattern_and_a_list_name_several_files(write, load, encode_image, tmp_path):
    for name in ("b3", "b1", "b4", "b0", "b2", "b5", "c"):
        write(f"{name}.parquet", {"image": [encode_image()], "caption": [name]})
    table = load(tmp_path / "b*.parquet", tmp_path / "c.parquet")
    assert table.captions == ["b0", "b1", "b2", "b3", "b4", "b5", "c"]
    assert load(tmp_path / "c.parquet", tmp_path / "b1.parquet").captions == ["c", "b1"]


def test_no_match_is_a_config_error(load, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.parquet\.train: no file matches .*none-\*"):
        load(tmp_path / "none-*.parquet")


def test_each_split_reads_its_own_files(write, encode_image, tmp_path):
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


def test_hugging_face_images_stay_encoded_until_asked_for(load, encode_image, tmp_path):
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


def test_a_changed_file_is_read_anew_under_another_fingerprint(write, load, encode_image):
    columns = {"image": [encode_image()], "caption": ["one"]}
    file = write("a.parquet", columns)
    before = load(file)
    assert load(file).fingerprint == before.fingerprint
    write("a.parquet", {**columns, "caption": ["two"]})
    os.utime(file, (1e9, 1e9))
    after = load(file)
    assert after.captions == ["two"]
    assert after.fingerprint != before.fingerprint


def test_fingerprint_follows_columns_files_and_their_order(write, load, encode_image):
    columns = {"image": [encode_image()], "caption": ["one"], "alt": ["two"]}
    one, two = write("a.parquet", columns), write("b.parquet", {**columns, "alt": ["three"]})
    tables = [load(one), load(one, caption_column="alt"), load(two), load(one, two), load(two, one)]
    assert len({table.fingerprint for table in tables}) == 5


# --- scenes ----------------------------------------------------------------------------------


def test_scenes_are_read_as_they_were_made(small):
    assert splits(small) == ("train", "val", "test", "swap")
    table = load_table(small, "val")
    made = [s for group in scenes.twin_groups("val", 8, 4, 0) for s in group]
    assert table.captions == [scene.caption() for scene in made]
    assert table.groups.tolist() == [0] * 4 + [1] * 4
    assert table.ids[:2] == ["val-000000", "val-000001"]
    for image, scene in zip(table.images(range(8)), made, strict=True):
        expected = np.asarray(scenes.render(scene, "val"))
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_the_swap_probe_comes_in_pairs(small):
    table = load_table(small, "swap")
    assert table.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(table.captions)) == 6


def test_scenes_are_made_once(small, monkeypatch):
    first = load_table(small, "test")

    def again(*args):
        raise AssertionError("made again")

    monkeypatch.setattr(scenes, "twin_groups", again)
    second = load_table(small, "test")
    assert second.captions == first.captions
    assert second.fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="made again"):
        load_table(small, "val")


@pytest.mark.parametrize("change", [{"seed": 1}, {"test_size": 12}, {"max_objects": 3}])
def test_other_scenes_live_elsewhere(small, change):
    other = small.model_copy(update={"scenes": small.scenes.model_copy(update=change)})
    before = load_table(small, "test")
    after = load_table(other, "test")
    assert after.captions != before.captions
    assert after.fingerprint != before.fingerprint
    assert load_table(small, "test").captions == before.captions


@pytest.mark.parametrize("moment", ["drawing", "writing", "renaming"])
def test_an_interruption_leaves_no_half_file(small, monkeypatch, moment):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    def half(table, path):
        path.write_bytes(b"PAR1 half")
        stop()

    with monkeypatch.context() as patch:
        if moment == "drawing":
            patch.setattr(scenes, "to_row", stop)
        if moment == "writing":
            patch.setattr(sources.pq, "write_table", half)
        if moment == "renaming":
            patch.setattr(type(small.cache_dir), "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            load_table(small, "test")
    assert [p.name for p in folder_of(small).iterdir() if p.suffix != ".lock"] == []
    assert len(load_table(small, "test")) == 8


def test_what_a_killed_process_left_is_not_read(small):
    load_table(small, "val")
    (folder_of(small) / ".test.parquet.123").write_bytes(b"PAR1 half")
    assert len(load_table(small, "test")) == 8
