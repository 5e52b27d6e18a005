"""Whether bytes are a picture, as a table would decide that decodes it whole."""

import hashlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from image_helpers import png16, tiff, to_file
from PIL import Image
from sources.download.hostile_server import CONTENTS, picture, pixels, turned

from edge_lib.data.image import MAX_PIXELS, decode_image
from edge_lib.sources.download import content
from edge_lib.sources.download.content import check_picture

LIMIT = 10**6


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def large_header_png(width, height):
    """A PNG of one pixel that claims more."""
    image = picture(0, "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + image[24:29]
    return image[:12] + header + struct.pack(">I", zlib.crc32(header)) + image[33:]


def test_picture_keeps_its_bytes():
    result = check_picture(picture(1), None, LIMIT)
    digest = hashlib.sha256(picture(1)).hexdigest()
    assert result == content.Picture("ok", None, picture(1), digest, 40, 30)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_size_is_as_shown(form, orientation):
    file = to_file(pixels(2), form, exif=exif(orientation))
    result = check_picture(file, None, LIMIT)
    assert (result.width, result.height) == decode_image(file).size
    assert (result.width, result.height) == ((30, 40) if orientation > 4 else (40, 30))


@pytest.mark.parametrize(
    "file",
    [
        to_file(pixels(1, 9, 10), "JPEG", exif=exif(6)),
        to_file(pixels(1, 1, 1), "JPEG"),
        to_file(pixels(1, 800, 8), "JPEG"),
        to_file(pixels(1), "TIFF", compression="jpeg"),
        to_file(pixels(1), "TIFF", compression="tiff_lzw"),
        to_file(pixels(1).convert("LAB"), "TIFF"),
        to_file(pixels(1).convert("P"), "PNG", transparency=0),
        to_file(pixels(1).convert("1"), "BMP"),
        to_file(pixels(1), "JPEG2000"),
        to_file(pixels(1), "MPO", save_all=True, append_images=[pixels(2)]),
        tiff(np.full((4, 5), 0.5, dtype=np.float32), kind=3),
        png16(np.arange(12).reshape(3, 4, 1) * 5000, 0),
        picture(1) + b"trailing bytes",
        picture(1, icc_profile=b"junk"),
        picture(1, exif=b"Exif\0\0MM\0*" + b"\xff" * 40),
        picture(1, comment=b"\0" * 60000),
    ],
    ids=[
        "sideways",
        "one pixel",
        "ratio at the limit",
        "jpeg in tiff",
        "lzw",
        "lab",
        "transparent palette",
        "bits",
        "jpeg2000",
        "mpo",
        "float",
        "16 bits",
        "trailing",
        "profile",
        "exif",
        "comment",
    ],
)
def test_picture_that_a_table_decodes_is_right(file):
    result = check_picture(file, None, LIMIT)
    assert (result.status, result.error) == ("ok", None)
    assert (result.width, result.height) == decode_image(file).size


@pytest.mark.parametrize("name", CONTENTS)
def test_content_without_picture(name):
    body, status = CONTENTS[name]
    result = check_picture(body, None, LIMIT)
    assert result.status == status
    assert result.error
    assert "0x" not in result.error
    assert (result.content, result.sha256, result.width, result.height) == (None,) * 4


@pytest.mark.parametrize("seed", range(40))
def test_damaged_jpeg_is_judged_as_a_table_would(seed):
    """Whole pictures are decoded by the table, reduced ones here."""
    random = np.random.default_rng(seed)
    for base in (picture(1), picture(1, progressive=True), picture(1, mode="CMYK"), turned()):
        file = bytearray(base)
        for place in random.integers(len(file), size=random.integers(1, 5)):
            file[place] = random.integers(256)
        file = bytes(file[: random.integers(len(file) // 2, 2 * len(file))])
        try:
            expected = decode_image(file).size
        except Exception:
            expected = None, None
        result = check_picture(file, None, MAX_PIXELS)
        assert (result.width, result.height) == expected
        assert check_picture(file, 20, MAX_PIXELS).status == result.status


@pytest.mark.parametrize(
    ("width", "height", "limit"),
    [
        (1001, 1000, LIMIT),
        (65535, 32767, 10**12),
        (9500, 9500, 10**12),
        (2**31 - 1, 2**31 - 1, 10**12),
        (101, 1, LIMIT),
        (1, 101, LIMIT),
    ],
)
def test_claimed_size_is_checked_before_decoding(monkeypatch, width, height, limit):
    monkeypatch.setattr(content, "normalize_image", lambda image: pytest.fail("decoded"))
    result = check_picture(large_header_png(width, height), None, limit)
    assert result.status == "too_many_pixels"


def test_formats_that_run_programs_are_not_read(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started"))
    eps = to_file(pixels(1), "EPS")
    assert check_picture(eps, None, LIMIT).status == "not_an_image"


def test_warnings_as_errors_end_no_check():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = check_picture(large_header_png(9500, 9500), None, 10**12)
    assert result.status == "too_many_pixels"


@pytest.mark.parametrize(
    ("file", "size"),
    [
        (to_file(pixels(3, 90, 60), "PNG"), (20, 13)),
        (to_file(pixels(3, 1600, 1000), "JPEG"), (20, 12)),
        (to_file(pixels(3, 90, 60), "JPEG", exif=exif(8)), (13, 20)),
        (to_file(pixels(3, 90, 60).convert("CMYK"), "JPEG"), (20, 13)),
        (to_file(pixels(3, 1000, 10), "PNG"), (20, 1)),
        (png16(np.full((60, 90, 1), 65535), 0), (20, 13)),
    ],
    ids=["png", "jpeg", "turned", "cmyk", "strip", "16 bits"],
)
def test_larger_picture_is_made_smaller(file, size):
    result = check_picture(file, 20, 10**7)
    smaller = Image.open(io.BytesIO(result.content))
    assert (smaller.format, smaller.mode) == ("JPEG", "RGB")
    assert (result.width, result.height) == smaller.size
    assert smaller.size == pytest.approx(size, abs=1)
    assert max(smaller.size) == 20
    assert result.sha256 == hashlib.sha256(result.content).hexdigest()
    reference = decode_image(file).resize(smaller.size, Image.Resampling.BOX)
    difference = np.asarray(reference, float) - np.asarray(smaller, float)
    assert np.abs(difference).mean() < 8


def test_transparent_parts_of_a_smaller_picture_are_white():
    file = to_file(Image.new("RGBA", (90, 60), (255, 0, 0, 0)), "PNG")
    smaller = Image.open(io.BytesIO(check_picture(file, 20, LIMIT).content))
    assert np.asarray(smaller).min() >= 253


@pytest.mark.parametrize("side", [40, 41])
def test_picture_that_is_small_enough_keeps_its_bytes(side):
    assert check_picture(picture(1), side, LIMIT).content == picture(1)


def test_same_picture_is_made_smaller_alike():
    assert check_picture(picture(1), 20, LIMIT) == check_picture(picture(1), 20, LIMIT)
