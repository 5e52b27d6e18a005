"""The table: missing values, skipped rows, decoded images and clips."""

import io
import logging

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from datasets import Dataset
from PIL import Image, features

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
    assert "small: audio does not decode: 1 skipped (r3): " in caplog.text


def test_clips_may_be_files(tmp_path):
    (tmp_path / "a.flac").write_bytes(sound(format="FLAC"))
    cells = [{"bytes": None, "path": str(tmp_path / name)} for name in ("a.flac", "gone.flac")]
    table = table_of(audio=cells)
    one, two = table.clips([0, 1])
    assert (len(one), two) == (1600, None)
    assert table.skipped["audio does not decode"] == ["1"]
