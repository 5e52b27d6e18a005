"""Files that a server should refuse, or take, without harm. Each function takes a random.Random."""

from functools import cache, partial

import numpy as np
from audio_helpers import encode, sine
from bombs import JPEG_PARTS, PARTS, flac, ico, insert_parts, jpeg_scans, pad_jpeg, png, tiff_tile
from image_helpers import png16, tiff, to_file
from PIL import Image

FORMS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "I;16", "F", "I")


@cache
def noise(size):
    return Image.effect_noise(size, 80).convert("RGB")


def valid_picture(rng):
    size = rng.choice([(1, 1), (1, 2), (64, 64), (7, 300), (300, 200), (100, 1), (1, 100)])
    while True:
        try:
            return to_file(noise(size).convert(rng.choice(MODES)), rng.choice(FORMS))
        except (OSError, ValueError, KeyError):  # a format without this mode
            continue


def turned_picture(rng):
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 65535])
    exif[0x010E] = "é" * rng.choice([1, 20000])
    return to_file(noise((30, 20)), "JPEG", exif=exif)


def broken_exif(rng):
    return to_file(noise((30, 20)), "JPEG", exif=b"Exif\0\0" + rng.randbytes(rng.randrange(60)))


def animation(rng):
    frames = [noise((20, 20))] * rng.randrange(2, 9)
    form = rng.choice(["GIF", "WEBP", "PNG"])
    return to_file(frames[0], form, save_all=True, append_images=frames[1:])


COSTLY = {  # small files that would take gigabytes or hours
    "png": lambda: png(20001, 1000),
    "ratio": lambda: png(20000, 2),
    "icon": lambda: ico(png(9000, 9000)),
    "tile": lambda: tiff_tile(12000),
    "scans": lambda: jpeg_scans(3000, (2000, 2000)),
    "fill": lambda: pad_jpeg(jpeg_scans(3000), 200_000),
    "gif": lambda: b"GIF89a\xff\xff\xff\x7f\x80" + bytes(8) + b",\0\0\0\0\xff\xff\xff\x7f\0\x02",
    "hour": lambda: flac(3600),
    "channels": lambda: encode(np.zeros((2000, 1000), np.int16), 16000),
    "rate": lambda: encode(sine(0.1, 191_999), 191_999),
} | {f"{kind} parts": partial(insert_parts, kind, 1_000_000) for kind in (*JPEG_PARTS, *PARTS)}


@cache
def costly(name):
    return COSTLY[name]()


def bomb(rng):
    return costly(rng.choice([*COSTLY]))


def deep_picture(rng):
    if rng.random() < 0.5:
        return png16(np.full((9, 9, 1), rng.randrange(65536)), 0)
    value = rng.choice([np.nan, np.inf, 1e38, -5.0, 0.5])
    return tiff(np.full((9, 9), value, "<f4"), kind=3)


def valid_clip(rng):
    rate, form = rng.choice([8000, 16000, 44100, 11025, 7919]), rng.choice(["WAV", "FLAC", "OGG"])
    return encode(sine(rng.choice([0.01, 0.3, 1.5]), rate), rate, form)


def odd_clip(rng):
    return rng.choice(
        [
            encode(np.empty(0, np.float32), 16000),
            encode(np.full(99, np.nan, "f"), 16000, subtype="FLOAT"),
            encode(np.full(99, 1e30, "f"), 16000, subtype="FLOAT"),
            encode(sine(0.1, 500), 500),
            encode(sine(0.1, 1_000_003), 1_000_003),
        ]
    )


def other_content(rng):
    return rng.choice(
        [
            b"",
            b"\0",
            b"hello",
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            b"%PDF-1.7\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) (r) file\n",
            b"PK\x03\x04" + bytes(30),
            b"\x1aE\xdf\xa3" + bytes(99),
            b"#EXTM3U\nfile:///etc/passwd\n",
            rng.randbytes(500),
        ]
    )


def truncated(rng):
    content = rng.choice([valid_picture, valid_clip])(rng)
    return content[: rng.randrange(len(content))]


def flipped(rng):
    """With a few bytes changed, mostly in the headers."""
    content = bytearray(rng.choice([valid_picture, valid_clip, turned_picture])(rng))
    for _ in range(rng.randrange(1, 9)):
        place = rng.randrange(min(len(content), rng.choice([64, len(content)])))
        content[place] = rng.randrange(256)
    return bytes(content)


KINDS = (valid_picture, turned_picture, broken_exif, animation, deep_picture, valid_clip, odd_clip)
KINDS += (other_content, truncated, truncated, flipped, flipped, flipped)


def hostile_file(rng):
    """Any of them; bombs are rare, as each takes up to a second."""
    return bomb(rng) if rng.random() < 0.04 else rng.choice(KINDS)(rng)
