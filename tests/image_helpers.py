"""Helpers for tests of images: files that Pillow does not write, as bytes."""

import io
import struct
import zlib


def to_file(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tiff(pixels, kind=1, photometric=1, bits=None, content=None, **tags):
    """An uncompressed grey TIFF of an array (H, W), in its byte order. kind: 1 unsigned, 2 signed,
    3 float. tags: by number, as `_274=6`.
    """
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    content = pixels.tobytes() if content is None else content
    height, width = pixels.shape
    values = {256: width, 257: height, 258: bits or 8 * pixels.itemsize, 259: 1, 262: photometric}
    values |= {277: 1, 278: height, 279: len(content), 339: kind}
    values |= {int(name[1:]): value for name, value in tags.items()}
    values[273] = 8 + 2 + 12 * (len(values) + 1) + 4  # where the pixels begin
    entries = (struct.pack(f"{order}HHII", tag, 4, 1, values[tag]) for tag in sorted(values))
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return header + struct.pack(f"{order}H", len(values)) + b"".join(entries) + bytes(4) + content


def png16(pixels, color_type):
    """A PNG of 16 bits a channel from an array (H, W, channels) of integers."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
