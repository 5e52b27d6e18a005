"""Sources: from files of several shapes to one table."""

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Audio, Dataset, Features, Image, Value

from edge_lib.config import CommonVoiceConfig, ConfigError, DataConfig, ParquetConfig, ScenesConfig
from edge_lib.sources import load_table, splits
from edge_lib.sources.scenes.generate import twin_groups
from edge_lib.sources.scenes.parallel import in_parallel
from edge_lib.sources.scenes.render import render
from edge_lib.sources.scenes.scene import COLOURS
from edge_lib.sources.scenes.speech import VARIANTS, speak
from edge_lib.sources.scenes.table import scene_row


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
    made = [s for group in twin_groups("val", 8, 4, 0) for s in group]
    assert table.captions == [scene.caption() for scene in made]
    assert table.groups.tolist() == [0] * 4 + [1] * 4
    assert table.ids[:2] == ["val-000000", "val-000001"]
    for image, scene in zip(table.images(range(8)), made, strict=True):
        expected = np.asarray(render(scene, "val"))
        np.testing.assert_array_equal(np.asarray(image), expected)


def test_the_swap_probe_comes_in_pairs(small):
    table = load_table(small, "swap")
    assert table.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(table.captions)) == 6


def test_scenes_are_made_once(small, monkeypatch):
    first = load_table(small, "test")

    def again(*args):
        raise AssertionError("made again")

    monkeypatch.setattr("edge_lib.sources.scenes.table.twin_groups", again)
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
            patch.setattr("edge_lib.sources.scenes.table.scene_row", stop)
        if moment == "writing":
            patch.setattr(pq, "write_table", half)
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


def test_several_captions_say_the_same_in_other_words(tmp_path):
    sizes = {"train_size": 4, "val_size": 4, "test_size": 40, "swap_size": 2}
    config = DataConfig(cache_dir=tmp_path, scenes=ScenesConfig(captions=3, **sizes))
    one = DataConfig(cache_dir=tmp_path, scenes=ScenesConfig(**sizes))
    table = load_table(config, "test")
    assert np.bincount(table.caption_rows).tolist() == [3] * 40
    assert len(set(table.captions)) == 120
    assert table.captions[::3] == load_table(one, "test").captions
    numbers = [{word for word in c.split() if word in COLOURS} for c in table.captions]
    assert all(numbers[i] == numbers[i + 1] == numbers[i + 2] for i in range(0, 120, 3))


# --- spoken and degraded scenes --------------------------------------------------------------


@pytest.fixture
def spoken(tmp_path):
    scenes_config = ScenesConfig(
        train_size=8, val_size=4, test_size=4, swap_size=2, speech=True, degraded_size=4
    )
    return DataConfig(scenes=scenes_config, cache_dir=tmp_path / "cache")


def test_degraded_splits_are_the_same_rows_damaged(spoken):
    assert splits(spoken)[4:] == ("degraded-train", "degraded-val", "degraded-test")
    for split, count in (("train", 4), ("val", 4), ("test", 4)):
        whole, damaged = load_table(spoken, split), load_table(spoken, f"degraded-{split}")
        assert damaged.ids == whole.ids[:count]
        assert damaged.captions == whole.captions[:count]
        assert damaged.groups.tolist() == whole.groups[:count].tolist()
        pictures = zip(whole.images(range(count)), damaged.images(range(count)), strict=True)
        for one, two in pictures:
            hidden = (np.asarray(one) != np.asarray(two)).any(-1)
            assert 0.3 < hidden.mean() < 0.4
            assert (np.asarray(two)[hidden] == 128).all()
        for one, two in zip(whole.clips(range(count)), damaged.clips(range(count)), strict=True):
            noisy = np.abs(one - two) > 2**-14
            assert len(one) == len(two)
            assert 0.4 < noisy.mean() <= 0.51


def test_every_caption_is_spoken_by_a_voice_of_its_split(spoken, monkeypatch):
    said = []
    monkeypatch.setattr(
        "edge_lib.sources.scenes.table.speak", lambda *args: said.append(args) or speak(*args)
    )
    for split in ("train", "val", "test"):
        said.clear()
        groups = list(twin_groups(split, 40, 4, 0))
        for number, scene in enumerate(scene for group in groups for scene in group):
            row = scene_row(spoken.scenes, scene, split, number, 0)
            assert said[-1][0] == row["texts"][0] == scene.caption()
        speakers = {voice.name.split("+")[1] for _, voice in said}
        assert len(speakers) > 1
        assert speakers <= set(VARIANTS[split])


def test_spoken_rows_are_the_same_again_on_any_number_of_cores(spoken, monkeypatch):
    groups = enumerate(twin_groups("train", 40, 4, 0))
    drawn = enumerate((group, scene) for group, twins in groups for scene in twins)
    jobs = [(spoken.scenes, scene, "train", n, group) for n, (group, scene) in drawn]
    first = list(in_parallel(scene_row, jobs, size=10))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "3")
    assert first == list(in_parallel(scene_row, jobs, size=10))
    assert [row["id"] for row in first] == [f"train-{n:06d}" for n in range(40)]
    assert all(row["audio"][:4] == b"fLaC" for row in first)


def test_captions_are_named_by_what_they_say(spoken, small):
    whole, damaged = load_table(spoken, "test"), load_table(spoken, "degraded-test")
    assert whole.item_fingerprint("text") == damaged.item_fingerprint("text")
    assert whole.item_fingerprint("audio") != damaged.item_fingerprint("audio")
    other = load_table(small, "test")
    assert whole.item_fingerprint("text") != other.item_fingerprint("text")


# --- audio from elsewhere --------------------------------------------------------------------


def tone(seconds=0.5, rate=16000, channels=1, format="FLAC"):
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([wave] * channels, 1), rate, format=format)
    return buffer.getvalue()


def test_parquet_with_an_audio_column_and_no_images(tmp_path):
    clips = [{"bytes": tone(), "path": None}, {"bytes": b"broken", "path": None}, None]
    columns = {"sound": clips, "sentence": ["one", "two", "three"]}
    features = Features({"sound": Audio(), "sentence": Value("string")})
    table = pa.table(columns).cast(features.arrow_schema)
    pq.write_table(table, tmp_path / "a.parquet")
    where = {split: [str(tmp_path / "a.parquet")] for split in ("train", "val", "test")}
    names = {"image_column": None, "audio_column": "sound", "caption_column": "sentence"}
    config = DataConfig(
        source="parquet", parquet=ParquetConfig(**where, **names), cache_dir=tmp_path / "cache"
    )
    table = load_table(config, "test")
    clips = table.clips(range(3))
    assert [clip is None for clip in clips] == [False, True, True]
    assert len(clips[0]) == 8000
    assert table.skipped == {"audio does not decode": ["1"], "no audio": ["2"]}
    assert table.images([0]) == [None]


@pytest.fixture
def common_voice(tmp_path):
    (tmp_path / "clips").mkdir()
    for name, rate in (("a.mp3", 32000), ("b.mp3", 48000)):
        (tmp_path / "clips" / name).write_bytes(tone(1.0, rate, format="MP3"))
    (tmp_path / "clips" / "c.mp3").write_bytes(b"not an mp3")
    lines = ["client_id\tpath\tsentence\tup_votes"]
    lines += ['u\ta.mp3\tShe said "no.\t2', "u\tb.mp3\tNA\t2", "u\tc.mp3\tThree\t2"]
    lines += ["u\tgone.mp3\t \t0"]
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n")
    return DataConfig(source="common_voice", common_voice=CommonVoiceConfig(folder=tmp_path))


def test_common_voice_reads_tsv_and_mp3(common_voice):
    table = load_table(common_voice, "test")
    assert table.ids == ["a.mp3", "b.mp3", "c.mp3", "gone.mp3"]
    assert table.captions == ['She said "no.', "NA", "Three"]
    clips = table.clips(range(4))
    assert [clip is None for clip in clips] == [False, False, True, True]
    for clip in clips[:2]:  # MP3 pads with some silence
        assert 16000 <= len(clip) < 19000
        spectrum = np.abs(np.fft.rfft(clip[:16000]))
        assert abs(int(spectrum.argmax()) - 440) <= 2
    assert table.skipped["audio does not decode"] == ["c.mp3", "gone.mp3"]
    assert table.skipped["no caption"] == ["gone.mp3"]


def test_common_voice_says_what_is_missing(common_voice, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.common_voice\.train: no such file .*train\.tsv"):
        load_table(common_voice, "train")
    (tmp_path / "test.tsv").write_text("client\tsentence\nu\tone\n")
    with pytest.raises(ConfigError, match=r"has no column \['path'\]"):
        load_table(common_voice, "test")
