"""Pictures, clips and captions of a small task, and those that are broken, by the way they are."""

import io
import pickle
import struct
import zlib
from functools import cache

import numpy as np
from audio_helpers import encode, sine
from bombs import tiff_tile
from image_helpers import png_chunk, tiff, to_file
from PIL import Image

NUMBERS = ("no", "little", "some", "much", "full")
RATE = 16000
PAGE = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


def picture(seed, red, green, blue):
    """A PNG of one colour with a little noise, so that no two are equal."""
    noise = np.random.default_rng(seed).integers(0, 24, (16, 16, 3))
    colour = np.array([red, green, blue]) * 56
    return to_file(Image.fromarray((colour + noise).astype(np.uint8)), "PNG")


def pictures(count, seed=0):
    """(PNG, caption) of pictures of 125 colours."""
    levels = np.random.default_rng(seed).integers(0, 5, (count, 3)).tolist()
    return [(picture([seed, n], *own), caption_of(*own)) for n, own in enumerate(levels)]


def caption_of(red, green, blue):
    return f"{NUMBERS[red]} red, {NUMBERS[green]} green, {NUMBERS[blue]} blue"


def clip(seed, height):
    noise = np.random.default_rng(seed).normal(0, 0.003, RATE).astype("f")
    return encode(sine(1, RATE, 150 * 1.3**height) + noise, RATE)


def clips(count, seed=0):
    """(WAV, sentence) of tones of 15 heights."""
    heights = np.random.default_rng(seed).integers(0, 15, count).tolist()
    words = ("low", "middle", "high")
    return [
        (clip([seed, n], own), f"a {words[own % 3]} tone, {NUMBERS[own // 3]} treble")
        for n, own in enumerate(heights)
    ]


def spare(n):
    """A whole picture that is no other's."""
    return picture([9, n], n % 5, n % 4, n % 3)


def spare_clip(n):
    """A whole clip that is no other's."""
    return clip([9, n], n % 15)


def huge_png(width, height):
    """A PNG whose header promises more pixels than there are."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    content = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + content + png_chunk(b"IEND", b"")


@cache
def broken_pictures():
    """{way: content} of files that are no picture that can be used."""
    whole, jpeg = spare(0), to_file(Image.open(io.BytesIO(spare(1))), "JPEG")
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 16
    return {
        "an empty file": b"",
        "half of a PNG": whole[: len(whole) // 2],
        "half of a JPEG": jpeg[: len(jpeg) // 2],
        "the head of a PNG": whole[:40],
        "a flipped bit": bytes(flipped),
        "zeros": bytes(4000),
        "an HTML page": PAGE,
        "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "a PostScript file": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "a pickle": pickle.dumps({"image": [1, 2, 3]}),
        "a clip": clips(1)[0][0],
        "3,000 x 2 pixels": to_file(Image.new("RGB", (3000, 2)), "PNG"),
        "900 million pixels": huge_png(30_000, 30_000),
        "no pixel": huge_png(0, 9),
        "a bomb": tiff_tile(10_000),
        "a TIFF of NaN": tiff(np.full((4, 4), np.nan, "f"), kind=3),
    }


def broken_clips():
    """{way: content} of files that are no clip that can be used."""
    whole = clips(1, seed=9)[0][0]
    silent = np.zeros(0, "f")
    return {
        "an empty file": b"",
        "the head of a WAV": whole[:30],
        "zeros": bytes(4000),
        "an HTML page": PAGE,
        "a picture": spare(2),
        "a pickle": pickle.dumps({"audio": [1, 2, 3]}),
        "no samples": encode(silent, RATE),
        "NaN": encode(np.full(4000, np.nan, "f"), RATE, subtype="FLOAT"),
        "infinite": encode(np.full(4000, np.inf, "f"), RATE, subtype="FLOAT"),
        "beyond -16..16": encode(np.full(4000, 3e4, "f"), RATE, subtype="FLOAT"),
        "10 samples a second": encode(np.zeros(40, "f"), 10),
    }


def broken_pairs(caption="some red"):
    """[(content, caption)] in every way that any format can hold; None is missing."""
    pairs = [(content, caption) for content in broken_pictures().values()]
    captions = (None, "", " \t\u00a0 ")
    return [*pairs, (None, caption), *((spare(10 + n), text) for n, text in enumerate(captions))]
