"""The table: missing values, skipped rows, decoded images and clips."""

import io
import logging
import pickle

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from datasets import Dataset
from PIL import Image, features

from edge_lib.config import ConfigError
from edge_lib.data.table import Table

BROKEN = ["truncated", "half a header", "text", "zeros"]


@pytest.fixture
def broken(encode_image):
    whole = encode_image()
    return {
        "truncated": whole[: len(whole) // 2],
        "half a header": whole[:12],
        "text": b"not an image",
        "zeros": bytes(200),
    }


def table_of(**columns):
    return Table(Dataset.from_dict(columns), "small", "fingerprint")


# --- captions --------------------------------------------------------------------------------


def test_captions_that_are_empty_are_skipped_with_their_ids(make_table, caplog):
    texts = [["one"], None, [], ["", "  \n"], [None, " two ", "", "three"]]
    table = make_table([{"id": f"r{i}", "texts": t} for i, t in enumerate(texts)])
    with caplog.at_level(logging.WARNING):
        assert table.captions == ["one", "two", "three"]
    assert table.caption_rows.tolist() == [0, 4, 4]
    assert table.skipped == {"no caption": ["r1", "r2", "r3"]}
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["small: no caption: 3 skipped (r1, r2, r3)"]


def test_captions_may_be_plain_strings():
    table = table_of(texts=["one", None, " ", "two"])
    assert table.captions == ["one", "two"]
    assert table.caption_rows.tolist() == [0, 3]
    assert table.skipped == {"no caption": ["1", "2"]}


def test_texts_that_are_not_utf8_are_skips(make_table):
    texts = pa.array([b"a", b"caf\xe9", b"c"]).view(pa.string())
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), texts)
    for column in (texts, lists):
        table = Table(Dataset(pa.table({"id": texts, "texts": column})), "small", "f")
        assert (table.captions, table.ids) == (["a", "c"], ["a", "1", "c"])
        assert table.skipped == {"no caption": ["1"]}
    asked = Table(Dataset(pa.table({"question": ["?"] * 3, "answers": lists})), "small", "f")
    assert asked.questions.answers == [["a"], ["c"]]


def test_table_without_captions_skips_every_row(encode_image):
    table = table_of(image=[encode_image()] * 3)
    assert table.captions == []
    assert table.caption_rows.dtype == np.int64
    assert table.skipped["no caption"] == ["0", "1", "2"]


def test_rows_without_id_or_group_are_numbered():
    table = table_of(texts=["a", "b", "c"])
    assert table.ids == ["0", "1", "2"]
    assert len(set(table.groups)) == 3


def test_rows_with_a_null_id_are_numbered(make_table):
    table = make_table([{"id": None}, {"id": "b"}, {"id": None}])
    assert table.captions == []
    assert table.ids == ["0", "b", "2"]
    assert table.skipped == {"no caption": ["0", "b", "2"]}


def test_rows_with_a_null_group_are_groups_of_one(make_table):
    groups = make_table([{"group": 1}, {"group": None}, {"group": 1}, {"group": None}]).groups
    assert len(np.unique(groups)) == 3
    assert groups[0] == groups[2]


def test_ids_are_strings_whatever_the_source_holds():
    assert table_of(id=[10, 11], texts=["a", "b"]).ids == ["10", "11"]


def test_has_finds_non_null_cells_without_decoding(make_table, encode_image):
    table = make_table([{"image": encode_image()}, {"image": None}, {"image": b"", "texts": []}])
    assert table.has("image").tolist() == [True, False, True]
    assert table.has("texts").tolist() == [False, False, True]
    assert table.has("nowhere").tolist() == [False] * 3
    cells = [None, {"bytes": None, "path": "/nowhere.png"}, {"bytes": encode_image(), "path": None}]
    assert table_of(image=cells).has("image").tolist() == [False, True, True]
    assert not table.skipped


def test_groups_may_be_texts_and_negative():
    groups = table_of(group=["x", None, "x", "y"]).groups
    assert (groups[0] == groups[2], len(set(groups))) == (True, 3)
    assert len(set(table_of(group=[-1, -2, None, None]).groups)) == 4


def test_has_leaves_out_files_without_bytes_or_path():
    cells = [{"bytes": None, "path": None}, {"bytes": None, "path": "a"}]
    assert table_of(audio=cells).has("audio").tolist() == [False, True]


def test_column_of_a_wrong_type_is_refused_when_the_table_is_opened():
    with pytest.raises(
        ConfigError, match=r"^small: column 'texts' is struct<.*short.*; texts takes"
    ):
        table_of(texts=[{"short": "a", "long": "b"}])
    with pytest.raises(ConfigError, match=r"^small: column 'image' is int64; image takes bytes"):
        table_of(image=[1, 2])


# --- rows and ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [["a"] * 4, [None] * 4, ["1", None, "1", "0"]], ids=str)
def test_rows_are_told_apart_whatever_their_ids(ids, encode_image):
    images = [b"broken", encode_image(1), b"", b"broken"]
    table = table_of(id=ids, image=images, texts=["", "b", None, "d"])
    assert [image is not None for image in table.images(range(4))] == [False, True, False, False]
    names = [str(row) if name is None else name for row, name in enumerate(ids)]
    assert table.skipped["image does not decode"] == [names[0], names[3]]
    assert table.skipped["no image"] == [names[2]]
    assert table.captions == ["b", "d"]
    assert table.skipped["no caption"] == [names[0], names[2]]
    assert table.image_index.tolist() == [0, 1, 2, 3]
    assert len(set(table.groups)) == 4


def test_skips_are_logged_whenever_their_number_gains_a_digit(make_table, caplog):
    table = make_table([{"id": f"r{i}"} for i in range(250)])
    with caplog.at_level(logging.WARNING):
        for row in [*range(120), *range(60)]:
            table.skip("bad", row, ValueError(f"error {row}"))
        table.skip_rows("bad", np.arange(250))
        table.skip_rows("worse", [3, 3, 2])
        table.skip_rows("none", [])
    assert table.skipped == {"bad": [f"r{i}" for i in range(250)], "worse": ["r3", "r2"]}
    assert [record.getMessage() for record in caplog.records] == [
        "small: bad: 1 skipped (r0): error 0",
        "small: bad: 10 skipped (r0, r1, r2, ...): error 9",
        "small: bad: 100 skipped (r0, r1, r2, ...): error 99",
        "small: worse: 2 skipped (r3, r2)",
    ]


def test_selected_rows_are_a_table(make_table, encode_image):
    rows = [
        {"id": f"r{i}", "image": encode_image(i, size=(8 + i, 8)), "texts": [f"{i}a", "", f"{i}b"]}
        for i in range(5)
    ]
    rows[3] |= {"texts": None, "image": None, "image_id": "shared", "group": 7}
    rows[1] |= {"image_id": "shared", "group": 7, "question": "q", "answers": ["yes", "no"]}
    table = make_table(rows).select([3, 4, 1], "part", "f2")
    assert (table.name, table.fingerprint, len(table)) == ("part", "f2", 3)
    assert table.ids == ["r3", "r4", "r1"]
    assert table.captions == ["4a", "4b", "1a", "1b"]
    assert table.caption_rows.tolist() == [1, 1, 2, 2]
    assert table.has("image").tolist() == [False, True, True]
    assert [image.width for image in table.images([2, 1])] == [9, 12]
    assert table.image_index.tolist() == [1, 0, 1]
    assert table.image_rows.tolist() == [1, 2]
    assert table.groups[0] == table.groups[2] != table.groups[1]
    assert (table.questions.rows.tolist(), table.questions.answers) == ([2], [["yes", "no"]])
    assert table.skipped["no caption"] == ["r3"]
    assert table.column("question") == [None, None, "q"]
    again = table.select([2, 0], "less", "f3")
    assert (again.ids, again.captions) == (["r1", "r3"], ["1a", "1b"])
    assert table.select([], "none", "f4").captions == []


def test_digest_of_captions_depends_on_captions_alone(make_table):
    one = make_table([{"texts": ["a", "b"]}, {"texts": [" c"]}])
    other = table_of(texts=["a", "", "b ", "c"])
    assert one.captions.digest() == other.captions.digest()
    assert one.captions.digest() != one.select([0], "x", "").captions.digest()


def test_images_are_read_without_the_clips_beside_them(make_table, encode_image, monkeypatch):
    table = make_table([{"image": encode_image(), "audio": b"clip"}])
    read = []
    arrow = Table._arrow
    monkeypatch.setattr(Table, "_arrow", lambda self, name: read.append(name) or arrow(self, name))
    assert table.images([0])[0] is not None
    assert set(read) == {"image"}


def test_table_can_be_pickled_without_its_columns(encode_image):
    table = table_of(image=[encode_image()] * 2, texts=["a", "b"])
    table.skip("bad", 1)
    assert table.images([0])[0] is not None
    assert table.captions == ["a", "b"]
    copy = pickle.loads(pickle.dumps(table))
    assert not copy._columns
    assert "captions" not in vars(copy)
    assert copy.images([1])[0].size == (12, 10)
    assert (copy.captions, copy.skipped) == (["a", "b"], {"bad": ["1"]})


# --- shared images ---------------------------------------------------------------------------


def test_rows_share_the_image_of_their_name(make_table, encode_image):
    red, blue = encode_image(1), encode_image(2)
    cells = [
        ("a", None),
        ("a", red),
        ("b", blue),
        (None, red),
        ("a", None),
        ("b", blue),
        ("c", None),
    ]
    table = make_table([{"image_id": name, "image": image} for name, image in cells])
    assert table.image_rows.tolist() == [1, 2, 3, 6]
    assert table.image_index.tolist() == [0, 0, 1, 2, 0, 1, 3]


def test_rows_of_one_name_with_other_images_keep_their_own(make_table, encode_image):
    red, blue = encode_image(1), encode_image(2)
    assert len(red) == len(blue)
    cells = [("a", red), ("a", blue), ("a", None), ("a", red), ("", red), ("", None), ("", blue)]
    table = make_table([{"image_id": name, "image": image} for name, image in cells])
    assert table.image_rows.tolist() == [0, 1, 4, 5, 6]
    assert table.image_index.tolist() == [0, 1, 0, 0, 2, 3, 4]


@pytest.mark.parametrize("format", ["GIF", "BMP", "JPEG"])
def test_images_of_one_name_and_size_are_told_apart_by_their_content(make_table, format):
    images = []
    for colour in ("red", "blue", "red"):
        Image.new("RGB", (64, 64), colour).save(content := io.BytesIO(), format)
        images.append(content.getvalue())
    table = make_table([{"image_id": "x", "image": image} for image in images])
    assert table.image_index.tolist() == [0, 1, 0]


def test_images_in_files_are_told_apart_by_path_and_offset():
    files = [("t.tar", 0), ("t.tar", 512), ("t.tar", 0), ("u.tar", 0)]
    cells = [{"path": path, "offset": offset, "size": 9} for path, offset in files]
    table = table_of(image=cells, image_id=[1, 1, 1, 1])
    assert table.image_index.tolist() == [0, 1, 0, 2]


def test_image_is_an_item_of_each_row_that_shares_it(make_table, encode_image):
    names = ["a", "b", "a", None, "a"]
    cells = [encode_image(1), encode_image(2), encode_image(1), None, None]
    rows = zip(names, cells, strict=True)
    table = make_table([{"image_id": n, "image": c, "texts": ["x", "y"]} for n, c in rows])
    items, owners = table.row_items("vision", table.has("image")[table.item_rows("vision")])
    assert (items.tolist(), owners.tolist()) == ([0, 1, 0, 0], [0, 1, 2, 4])
    valid = np.arange(10) != 3
    items, owners = table.row_items("text", valid)
    assert items.tolist() == [0, 1, 2, *range(4, 10)]
    assert owners.tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4]


# --- images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "PA", "1"])
def test_images_of_any_mode_become_rgb(make_table, encode_image, mode):
    format = "TIFF" if mode == "PA" else "PNG"
    table = make_table([{"id": "a", "image": encode_image(1, format, mode)}])
    (image,) = table.images([0])
    assert (image.mode, image.size) == ("RGB", (12, 10))
    expected = Image.open(io.BytesIO(encode_image(1, format, mode))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert len(np.unique(np.asarray(image))) > 1
    assert not table.skipped


def test_images_in_cmyk_become_rgb(make_table):
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK").save(buffer, "JPEG")
    (image,) = make_table([{"image": buffer.getvalue()}]).images([0])
    red, green, blue = np.asarray(image)[8, 8].astype(int)
    assert image.mode == "RGB"
    assert red > 200 > 60 > max(green, blue)


def test_images_in_16_bit_grey_keep_their_shades(make_table):
    shades = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    buffer = io.BytesIO()
    Image.fromarray(shades).save(buffer, "PNG")
    (image,) = make_table([{"image": buffer.getvalue()}]).images([0])
    np.testing.assert_allclose(np.asarray(image)[..., 0], shades / 257, atol=1)


@pytest.mark.parametrize("kind", BROKEN)
def test_images_that_do_not_decode_are_skipped(make_table, encode_image, broken, caplog, kind):
    rows = [{"id": "good", "image": encode_image()}, {"id": "bad", "image": broken[kind]}]
    table = make_table([*rows, {"id": "late", "image": encode_image(1)}])
    with caplog.at_level(logging.WARNING):
        first, none, last = table.images([0, 1, 2])
    assert none is None
    assert first.size == last.size == (12, 10)
    assert table.skipped == {"image does not decode": ["bad"]}
    (record,) = caplog.records
    assert record.getMessage().startswith("small: image does not decode: 1 skipped (bad): ")


@pytest.mark.parametrize("nothing", [None, b""], ids=["null", "empty"])
def test_images_without_bytes_are_missing(make_table, nothing):
    table = make_table([{"id": "empty", "image": nothing}])
    assert table.images([0]) == [None]
    assert table.skipped == {"no image": ["empty"]}


def test_images_with_too_many_pixels_are_skipped(make_table, encode_image, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    table = make_table([{"id": "bomb", "image": encode_image()}])
    assert table.images([0]) == [None]
    assert table.skipped == {"image does not decode": ["bomb"]}


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_images_with_unusual_decoder_errors_are_skipped(make_table, encode_image):
    """Pillow's AVIF plugin raises RuntimeError, unlike other decoders."""
    content = encode_image(format="AVIF", size=(24, 24)).replace(b"pitm", b"free")
    table = make_table([{"id": "avif", "image": content}])
    assert table.images([0]) == [None]
    assert table.skipped == {"image does not decode": ["avif"]}


def test_skipped_items_are_counted_once(make_table):
    table = make_table([{"id": "bad", "image": b"text"}, {"id": "worse", "image": b"text"}])
    for _ in range(3):
        table.images([1, 0])
    assert table.skipped == {"image does not decode": ["worse", "bad"]}


def test_image_cells_may_be_bytes_with_a_path(encode_image, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encode_image(1))
    cells = [
        {"bytes": encode_image(2), "path": None},
        {"bytes": None, "path": str(file)},
        {"bytes": encode_image(2), "path": "/nowhere.png"},
        {"bytes": None, "path": "/nowhere.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": b"", "path": ""},
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.table({"image": pa.array(cells, kind)})
    table = Table(Dataset(column), "small", "fingerprint")
    images = table.images(range(7))
    assert [image is not None for image in images] == [True] * 3 + [False] * 4
    for image, seed in zip(images, (2, 1, 2), strict=False):
        expected = Image.open(io.BytesIO(encode_image(seed)))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    assert table.skipped == {"image does not decode": ["3"], "no image": ["4", "5", "6"]}


def test_table_without_an_image_column_has_no_images():
    table = table_of(texts=["a", "b"])
    assert table.images([0, 1]) == [None, None]
    assert table.skipped["no image"] == ["0", "1"]


@pytest.mark.parametrize(
    "rows", [[2, 0], np.array([2, 0]), range(2, -1, -2)], ids=["list", "array", "range"]
)
def test_images_follow_the_order_of_rows(make_table, encode_image, rows):
    table = make_table([{"image": encode_image(i, size=(8 + i, 8))} for i in range(3)])
    assert [image.width for image in table.images(rows)] == [10, 8]
    assert table.images([]) == []


def test_images_are_decoded_only_when_they_are_read(make_table, encode_image, monkeypatch):
    rows = [{"id": "x", "image": encode_image(), "texts": ["a"]}]
    rows += [{"id": "y", "image": b"broken", "texts": ["b"]}]
    table = make_table(rows)
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: opened.append(1) or real(*a, **k))
    assert (len(table), table.captions, table.ids) == (2, ["a", "b"], ["x", "y"])
    assert not opened
    assert table.images([0])[0] is not None
    assert len(opened) == 1
    assert not table.skipped


# --- clips -----------------------------------------------------------------------------------


def sound(seconds=0.1, rate=16000, channels=1, format="WAV"):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(seconds * rate), channels))
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, rate, format=format)
    return buffer.getvalue()


def test_clips_that_are_broken_or_missing_are_skipped_with_their_ids(make_table, caplog):
    whole = sound()
    audio = [whole, None, b"", b"not a sound", whole[:20], sound(0), sound(60, 8000, 2)]
    table = make_table([{"id": f"r{i}", "audio": value} for i, value in enumerate(audio)])
    with caplog.at_level(logging.WARNING):
        clips = table.clips(range(len(audio)))
    assert [clip is not None for clip in clips] == [True, *[False] * 5, True]
    assert len(clips[-1]) == 60 * 16000
    assert table.skipped["no audio"] == ["r1", "r2"]
    assert table.skipped["audio does not decode"] == ["r3", "r4", "r5"]
    assert [record.getMessage() for record in caplog.records] == [
        "small: no audio: 2 skipped (r1, r2)",
        "small: audio does not decode: 3 skipped (r3, r4, r5): Format not recognised.",
    ]


def test_clips_may_be_files(tmp_path):
    (tmp_path / "a.flac").write_bytes(sound(format="FLAC"))
    cells = [{"bytes": None, "path": str(tmp_path / name)} for name in ("a.flac", "gone.flac")]
    table = table_of(audio=cells)
    one, two = table.clips([0, 1])
    assert (len(one), two) == (1600, None)
    assert table.skipped["audio does not decode"] == ["1"]


def test_examples_are_captions_alone_in_a_table_without_images(encode_image):
    assert table_of(texts=[["a"], [], ["c", "d"]]).examples(5) == ([None, None], ["a", "c"])
    assert table_of(texts=[[], None]).examples(4) == ([], [])
    mixed = table_of(texts=[["a"], ["b"]], image=[None, encode_image()])
    images, captions = mixed.examples(4)
    assert captions == ["b"]
    assert images[0].size


def test_examples_have_different_images(encode_image):
    cells = [encode_image(), None, encode_image(1), encode_image(1), b"broken", encode_image(2)]
    texts = [None, ["b"], ["c"], ["d"], ["e"], ["f"]]
    shared = table_of(image=cells, texts=texts, image_id=["x", "x", "y", "y", "z", None])
    images, captions = shared.examples(4)
    assert captions == ["b", "c", "f"]
    decoded = shared.images([0, 2, 5])
    assert [image.tobytes() for image in images] == [image.tobytes() for image in decoded]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["a.png", "data:image/png;base64,AA==", "b.png", None], ["b.png", None, "a.png"]),
        ([b"content"] * 4, [None] * 3),
        (
            [
                {"bytes": b"x", "path": "inside.png"},
                None,
                {"bytes": None, "path": "c.png"},
                {"bytes": None, "path": None},
            ],
            ["c.png", None, None],
        ),
    ],
    ids=["texts", "bytes", "structs"],
)
def test_paths_are_those_of_cells_without_content(cells, expected):
    table = table_of(image=cells)
    assert table.paths("image", [2, 1, 0]) == expected
    assert table.select([3, 0, 1, 2], "part", "other").paths("image", [3, 2, 1]) == expected
    assert table.paths("audio", [0]) == [None]
