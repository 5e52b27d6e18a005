"""Small files that would take gigabytes or hours to decode."""

import io
import struct
import zlib

import numpy as np
import soundfile
from image_helpers import png_chunk, to_file
from PIL import Image

PARTS = ("PNG", "GIF", "PPM")  # formats that have small parts, besides
JPEG_PARTS = {
    "fill": b"\xff",
    "stuffed": b"\xff\0",
    "comments": b"\xff\xfe\0\2",
    "exif": b"\xff\xe1\0\x6cExif\0\0" + bytes(100),
}


def zeros(count):
    """`count` zeros, deflated, without ever holding them."""
    deflate = zlib.compressobj(9)
    block = bytes(1 << 16)
    parts = [deflate.compress(block) for _ in range(count >> 16)]
    return b"".join([*parts, deflate.compress(bytes(count & 0xFFFF)), deflate.flush()])


def tiff_tile(side, content=None):
    """A TIFF of 16 x 16 pixels in one tile of `side` x `side`."""
    content = zeros(side * side) if content is None else content
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    tags |= {324: 8 + 2 + 12 * 10 + 4, 325: len(content)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + content


def jpeg_scans(count, size=(64, 48), **options):
    """A grey JPEG whose last scan is repeated, `count` scans in all."""
    jpeg = to_file(Image.new("L", size, 90), "JPEG", progressive=True, **options)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * (count - jpeg.count(b"\xff\xda")) + jpeg[-2:]


def pad_jpeg(jpeg, count):
    """With `count` fill bytes that no marker ends in front of its first segment."""
    return jpeg[:2] + b"\xff" * count + b"\0" + jpeg[2:]


def insert_parts(kind, size):
    """A picture of 64 x 48 pixels with `size` bytes of parts as small as its format allows."""
    image = Image.new("L", (64, 48), 90)
    if kind == "PNG":
        content, position, part = to_file(image, "PNG"), 33, png_chunk(b"abCd", b"")
    elif kind == "GIF":
        content, part = to_file(image, "GIF"), b"!\xfe\x01a\0"
        position = content.index(b"\x2c\0\0\0\0\x40\0")  # of the image descriptor
    elif kind == "PPM":
        content, position, part = to_file(image, "PPM"), 2, b" "
    else:
        content, position, part = to_file(image, "JPEG"), 2, JPEG_PARTS[kind]
    return content[:position] + part * (size // len(part)) + content[position:]


def png(width, height):
    """A black PNG of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zeros((width + 1) * height)
    chunks = png_chunk(b"IHDR", header), png_chunk(b"IDAT", data), png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def ico(content):
    """An icon that claims 16 x 16 pixels around a PNG."""
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(content), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + content


def flac(seconds, rate=16000, channels=1):
    """Silence."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, channels, format="FLAC") as file:
        for start in range(0, round(seconds * rate), rate):
            length = min(rate, round(seconds * rate) - start)
            file.write(np.zeros((length, channels), np.int16))
    return buffer.getvalue()
