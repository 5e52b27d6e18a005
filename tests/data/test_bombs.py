"""Small files that are costly to decode are refused before they are."""

import io

import numpy as np
import pytest
from bombs import JPEG_PARTS, PARTS, insert_parts, jpeg_scans, pad_jpeg, png, tiff_tile
from image_helpers import png_chunk, to_file
from PIL import Image

from edge_lib.data.bombs import MAX_SCANS, check_bomb
from edge_lib.data.image import decode_image
from edge_lib.data.unusable import UnusableItem
from edge_lib.sources.download.content import check_picture


def test_bomb_of_tiff_tiles_is_refused():
    """Its tile would be decoded whole: 16,000 x 16,000 pixels for 16 x 16."""
    with pytest.raises(UnusableItem, match="tiles of 256,000,000 pixels"):
        decode_image(tiff_tile(16000, content=bytes(8)))


def test_bomb_check_takes_usual_tiles():
    assert decode_image(tiff_tile(256)).size == (16, 16)


def test_bomb_of_jpeg_scans_is_refused():
    assert decode_image(jpeg_scans(MAX_SCANS)).size == (64, 48)
    with pytest.raises(UnusableItem, match="over 100 scans"):
        decode_image(jpeg_scans(MAX_SCANS + 1))


def test_bomb_check_counts_scans_of_the_picture_itself():
    """A film behind the picture, as phones write it, or a thumbnail holds the same bytes."""
    exif = b"Exif\0\0" + b"\xff\xda" * 200
    jpeg = to_file(Image.new("RGB", (16, 12), "red"), "JPEG", exif=exif) + b"\xff\xda" * 200
    assert decode_image(jpeg).size == (16, 12)


def test_bomb_check_reads_restarts_and_stuffed_bytes():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg = to_file(Image.fromarray(noise), "JPEG", quality=100, restart_marker_blocks=1)
    assert jpeg.count(b"\xff\xd0") == 2
    assert decode_image(jpeg + b"\xff\xda" * 200).size == (64, 64)


def test_bomb_check_reads_fill_bytes_once():
    """Once for each of them would take hours, in which no other thread runs."""
    jpegs = [jpeg_scans(MAX_SCANS), jpeg_scans(MAX_SCANS + 1)]
    assert decode_image(pad_jpeg(jpegs[0], 100)).size == (64, 48)
    images = [Image.open(io.BytesIO(jpeg)) for jpeg in jpegs]
    check_bomb(images[0], pad_jpeg(jpegs[0], 2_000_000), 10**6)
    with pytest.raises(UnusableItem, match="over 100 scans"):
        check_bomb(images[1], pad_jpeg(jpegs[1], 2_000_000), 10**6)


@pytest.mark.parametrize("kind", [*JPEG_PARTS, *PARTS])
def test_bomb_of_small_parts_is_refused(kind):
    """Pillow would read 20 MB of them in up to 20 s, in which other threads hardly run."""
    assert decode_image(insert_parts(kind, 2000)).size == (64, 48)
    content = insert_parts(kind, 200_000)
    with pytest.raises(UnusableItem, match=r"small parts|EXIF data in over 100"):
        decode_image(content)
    assert check_picture(content, None, 10**6).status == "corrupt_image"


def test_bomb_check_takes_pictures_of_many_parts():
    """PNGs in parts of 4 kB, and JPEGs with a comment of any size, as tools write them."""
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    head, data, end = png_parts(to_file(Image.fromarray(noise), "PNG"))
    pieces = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    content = head + b"".join(png_chunk(b"IDAT", piece) for piece in pieces) + end
    assert len(pieces) > 300
    assert np.array_equal(decode_image(content), noise)
    comments = (b"\xff\xfe\xff\xff" + bytes(65533)) * 100
    jpeg = to_file(Image.new("RGB", (16, 12), "red"), "JPEG")
    assert decode_image(jpeg[:2] + comments + jpeg[2:]).size == (16, 12)


def png_parts(content):
    """What precedes the pixels of a PNG, their compressed bytes, and its end."""
    data, position = b"", 33
    while (kind := content[position + 4 : position + 8]) != b"IEND":
        length = int.from_bytes(content[position : position + 4])
        data += content[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        position += 12 + length
    return content[:33], data, content[position:]


def test_bomb_of_a_download_is_refused():
    picture = check_picture(jpeg_scans(MAX_SCANS + 1), None, 10**6)
    assert (picture.status, picture.error) == ("too_many_scans", "a JPEG of over 100 scans")
    assert check_picture(tiff_tile(16000, bytes(8)), None, 10**6).status == "too_many_pixels"


def test_bomb_check_uses_the_limit_that_is_given():
    assert decode_image(png(50, 40), max_pixels=2000).size == (50, 40)
    with pytest.raises(UnusableItem, match="50 x 41 pixels, over 2,000"):
        decode_image(png(50, 41), max_pixels=2000)
