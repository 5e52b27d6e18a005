"""Tar shards: samples, columns, odd names, broken shards."""

import gzip
import io
import json
import tarfile

import pytest
from audio_helpers import encode, sine

from edge_lib.config import ConfigError, DataConfig
from edge_lib.sources import load_table


@pytest.fixture
def shard(tmp_path):
    """shard({name: bytes or text}, name) -> a tar file of these members, in this order."""

    def write(members, name="0.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, content in members:
                content = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return tmp_path / name

    return write


@pytest.fixture
def load(tmp_path):
    """load(pattern, ..., key=value) -> the train table of these shards."""

    def load(*patterns, **keys):
        named = {"train": list(map(str, patterns)), "val": ["val.tar"], "test": ["test.tar"]}
        config = DataConfig(
            source="webdataset", webdataset=named | keys, cache_dir=tmp_path / "cache"
        )
        return load_table(config, "train")

    return load


@pytest.fixture
def picture(encode_image):
    """picture(n) -> an image of 10 + n by 8 pixels."""
    return lambda n: encode_image(n, size=(10 + n, 8))


def widths(table):
    return [image and image.size[0] for image in table.images(range(len(table)))]


def test_webdataset_reads_ten_samples(shard, load, picture, encode_image):
    formats = ["jpg", "png", "webp", "JPEG"]
    for number in range(2):
        members = []
        for n in range(5):
            suffix = formats[n % 4]
            members += [
                (f"{n:05}.{suffix}", picture(5 * number + n)),
                (f"{n:05}.txt", f"c{5 * number + n}"),
            ]
        shard(members, f"train-{number:03}.tar")
    table = load(shard([], "none.tar").with_name("train-{000..001}.tar"))
    assert table.captions == [f"c{n}" for n in range(10)]
    assert widths(table) == list(range(10, 20))
    assert table.ids[6] == "train-001/00001"
    assert widths(table.select([7, 2], "some", "f")) == [17, 12]


def test_webdataset_holds_positions_and_no_pictures(shard, load, picture):
    file = shard([("a.png", picture(0)), ("a.txt", "x"), ("b.png", picture(1)), ("b.txt", "y")])
    cell = load(file).column("image")[1]
    assert cell["path"] == str(file)
    content = file.read_bytes()
    assert content[cell["offset"] : cell["offset"] + cell["size"]] == picture(1)


def test_webdataset_reads_captions_of_json(shard, load, picture):
    contents = [{"caption": "a"}, {"caption": ["b", "c"]}, {"caption": None}, {}, {"caption": 3}]
    members = [(f"{n}.json", json.dumps(content)) for n, content in enumerate(contents)]
    members += [("5.json", "{broken"), *((f"{n}.jpg", picture(n)) for n in range(6))]
    table = load(shard(members))
    assert table.column("texts") == [["a"], ["b", "c"], [], [], [], []]
    assert widths(table) == list(range(10, 16))
    assert table.skipped["a caption that is not a text"] == ["0/4", "0/5"]


def test_webdataset_counts_texts_that_are_not_utf8(shard, load, picture):
    members = [("0.png", picture(0)), ("0.txt", b"caf\xe9"), ("1.png", picture(1))]
    table = load(shard([*members, ("1.json", '{"caption": "a \\ud83d"}')]))
    assert table.captions == ["a ?"]
    assert table.skipped["a caption that is not a text"] == ["0/0"]


def test_webdataset_prefers_txt_and_takes_named_columns(shard, load, picture):
    fields = {"caption": "json", "info": {"long": "nested"}, "transcripts": ["t0", "t1"]}
    file = shard([("0.jpg", picture(0)), ("0.txt", "\ufefftxt"), ("0.json", json.dumps(fields))])
    assert load(file).captions == ["txt"]
    columns = ["json.caption", "json.info.long", "json.transcripts", "txt"]
    assert load(file, caption_column=columns).captions == ["json", "nested", "t0", "t1", "txt"]


def test_webdataset_error_lists_the_columns(shard, load, picture):
    file = shard([("0.jpg", picture(0)), ("0.txt", "x"), ("0.json", '{"captions": "x"}')])
    message = (
        r"0\.tar: no column 'json\.caption' \(did you mean 'json\.captions'\?\); "
        r"it has 'jpg', 'json', 'json\.captions', 'txt'"
    )
    with pytest.raises(ConfigError, match=message):
        load(file, caption_column="json.caption")
    with pytest.raises(ConfigError, match=r"no column 'png'"):
        load(file, image_column="png")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["22.05.png", "22.05.txt", "22.06.png", "22.06.txt"], ["22.05", "22.06"]),
        (["a/b.c/0.png", "a/b.c/0.txt", "d/0.png", "d/0.txt"], ["a/b.c/0", "d/0"]),
        (["./0.png", "./0.txt", "./1.png", "./1.txt"], ["0", "1"]),
        (["0.input.png", "0.outputs.txt", "1.input.png", "1.outputs.txt"], ["0", "1"]),
        (["0.png", "0.txt", "0.seg.txt", "1.png", "1.txt", "1.seg.txt"], ["0", "1"]),
        (["x.0.PNG", "y.1.PNG", "y.1.TXT", "x.0.TXT"], ["x", "y"]),
    ],
    ids=["dots", "folders", "dot-slash", "compound", "second-text", "order-and-case"],
)
def test_webdataset_pairs_files_by_name(shard, load, picture, names, expected):
    members = [
        (name, picture(n) if name.lower().endswith("png") else f"of {name}")
        for n, name in enumerate(names)
    ]
    table = load(shard(members))
    assert table.ids == [f"0/{name}" for name in expected]
    for key, caption, width in zip(expected, table.captions, widths(table), strict=True):
        own = [n for n, name in enumerate(names) if name.lstrip("./").startswith(key)]
        assert caption.removeprefix("of ") in [names[n] for n in own]
        assert width - 10 in own


def test_webdataset_chooses_one_of_two_pictures(shard, load, picture):
    file = shard([("0.input.png", picture(0)), ("0.target.png", picture(1)), ("0.txt", "x")])
    assert widths(load(file, image_column="target.png")) == [11]
    assert load(file, image_column="target.png").captions == ["x"]


def test_webdataset_counts_missing_partners_and_hidden_files(shard, load, picture):
    members = [
        ("0.png", picture(0)),
        ("1.txt", "no picture"),
        ("._2.png", b"of macOS"),
        ("__MACOSX/2.png", b"of macOS"),
        ("README", "x"),
        ("2.png", picture(2)),
        ("2.txt", "two"),
        ("3.png", b"broken"),
        ("3.txt", "three"),
    ]
    table = load(shard(members))
    assert table.captions == ["two", "three"]
    assert widths(table) == [10, 12, None]
    assert table.skipped == {
        "no picture or sound": ["0/1"],
        "no caption": ["0/0"],
        "image does not decode": ["0/3"],
    }


def test_webdataset_takes_the_later_of_two_files_of_one_name(shard, load, picture):
    table = load(shard([("0.png", picture(0)), ("0.txt", "x"), ("0.png", picture(1))]))
    assert widths(table) == [11]


def test_webdataset_reads_sound(shard, load):
    members = [
        (f"{n}.{suffix}", encode(sine(0.5, 16000), 16000, suffix.upper()))
        for n, suffix in enumerate(["flac", "wav", "mp3"])
    ]
    table = load(shard([*members, *((f"{n}.txt", "x") for n in range(3))]))
    assert [round(len(clip), -3) for clip in table.clips(range(3))] == [8000] * 3
    assert table.images([0]) == [None]


def test_webdataset_reads_the_members_before_the_end_of_a_truncated_shard(shard, load, picture):
    members = [
        (f"{n}.{s}", picture(n) if s == "png" else f"c{n}")
        for n in range(3)
        for s in ("png", "txt")
    ]
    file = shard(members)
    with tarfile.open(file) as tar:
        third = tar.getmember("2.png").offset_data
    content = file.read_bytes()
    for end in (third + 10, third, third - 512, third - 300):
        file.write_bytes(content[:end])
        table = load(file)
        assert table.captions == ["c0", "c1"]
        assert widths(table) == [10, 11]
        assert table.skipped["the end of a truncated tar file"] == ["0.tar"]


def test_webdataset_leaves_out_empty_shards(shard, load, picture, tmp_path):
    shard([], "0.tar")
    (tmp_path / "1.tar").touch()
    shard([("0.png", picture(0)), ("0.txt", "x")], "2.tar")
    table = load(tmp_path / "*.tar")
    assert table.captions == ["x"]
    assert table.skipped == {"an empty tar file": ["1.tar"]}
    with pytest.raises(ConfigError, match="webdataset train: no file has rows"):
        load(tmp_path / "0.tar")


@pytest.mark.parametrize("name", ["0.tar.gz", "0.tar"])
def test_webdataset_rejects_compressed_shards(shard, load, picture, tmp_path, name):
    content = shard([("0.png", picture(0)), ("0.txt", "x")]).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content))
    with pytest.raises(ConfigError, match=rf"{name} is not a tar file, or is compressed"):
        load(tmp_path / name)


def test_webdataset_fingerprint_follows_the_content(shard, load, picture):
    file = shard([("0.png", picture(0)), ("0.txt", "x")])
    before = load(file).fingerprint
    file.touch()
    assert load(file).fingerprint == before
    assert load(shard([("0.png", picture(1)), ("0.txt", "x")])).fingerprint != before


def test_webdataset_is_divided_by_a_field(shard, tmp_path, picture):
    members = []
    for n in range(20):
        fields = {"caption": f"c{n}", "user": n // 4}
        members += [(f"{n}.png", picture(n)), (f"{n}.json", json.dumps(fields))]
    section, divide = {"train": str(shard(members))}, {"val": 0.2, "test": 0.2, "by": "json.user"}
    config = {"source": "webdataset", "webdataset": section, "cache_dir": tmp_path / "cache"}
    tables = [
        load_table(DataConfig(**config, split=divide), split) for split in ("train", "val", "test")
    ]
    assert [len(table) for table in tables] == [12, 4, 4]
    users = [set(table.column("split_by")) for table in tables]
    assert sorted(user for part in users for user in part) == list("01234")
    with pytest.raises(ConfigError, match=r"no column 'json\.name' .*; it has"):
        load_table(DataConfig(**config, split=divide | {"by": "json.name"}), "val")


def test_webdataset_reads_a_caption_a_line(shard, load, picture):
    members = [("0.png", picture(0)), ("0.txt", "one\ntwo\r\n\nthree"), ("1.png", picture(1))]
    table = load(shard([*members, ("1.txt", "four\n")]))
    assert table.captions == ["one", "two", "three", "four"]
    assert table.caption_rows.tolist() == [0, 0, 0, 1]
