"""The normal form of an image: what files of any kind look like as RGB."""

import struct

import numpy as np
import pytest
from image_helpers import png16, tiff, to_file
from PIL import Image

from edge_lib.data.image import TRANSPARENT, decode_image, normalize_image

RAMP = np.linspace(0, 1, 48).reshape(6, 8)  # black to white
GREY = np.repeat(np.round(255 * RAMP)[..., None], 3, axis=2)
ORANGE = (200, 100, 50)
orange = Image.new("RGB", (8, 6), ORANGE)


def scaled(dtype, white=None, black=0):
    """The ramp from black to white in another type."""
    white = np.iinfo(dtype).max if white is None else white
    return (black + RAMP * (white - black)).astype(dtype)


def pixels(image):
    assert image.mode == "RGB"
    return np.asarray(image).astype(float)


def assert_looks_like(image, expected, atol=1):
    np.testing.assert_allclose(
        pixels(image), np.broadcast_to(expected, pixels(image).shape), 0, atol
    )


def without_adobe_marker(jpeg):
    """Its colours are then stored as they are; Adobe's are inverted."""
    start = jpeg.index(b"\xff\xee")
    (length,) = struct.unpack(">H", jpeg[start + 2 : start + 4])
    return jpeg[:start] + jpeg[start + 2 + length :]


# --- modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_colours_of_any_mode_become_the_same_rgb(mode):
    assert_looks_like(normalize_image(orange.convert(mode)), ORANGE)


@pytest.mark.parametrize("mode", ["L", "LA", "La", "P", "PA", "1"])
def test_grey_and_palette_modes_become_rgb(mode):
    square = Image.new("L", (8, 6), 255)
    square.paste(0, (0, 0, 4, 6))
    image = square.convert("LA").convert(mode) if mode == "La" else square.convert(mode)
    expected = np.asarray(square)[..., None]
    assert_looks_like(normalize_image(image), expected)


def test_lab_becomes_rgb():
    """Under D50, red is L 54.3, a 80.8, b 69.9: in 8 bits 2.55 L, and 128 more than a and b."""
    red = Image.new("LAB", (8, 6), (138, 209, 198))
    assert_looks_like(normalize_image(red), (255, 0, 0), atol=6)


@pytest.mark.parametrize("change", [bytes, without_adobe_marker], ids=["adobe", "plain"])
def test_cmyk_jpeg_keeps_its_colours_with_and_without_adobe_marker(change):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert_looks_like(decode_image(change(to_file(red, "JPEG"))), (255, 0, 0), atol=3)


# --- more than 8 bits ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(to_file(Image.fromarray(scaled("<u2")), "PNG"), id="16-bit PNG"),
        pytest.param(to_file(Image.fromarray(scaled("<u2")), "JPEG2000"), id="16-bit JPEG 2000"),
        pytest.param(tiff(scaled("<u2")), id="16-bit TIFF"),
        pytest.param(tiff(scaled(">u2")), id="16-bit TIFF, big-endian"),
        pytest.param(tiff(scaled("<u2")[::-1, ::-1], photometric=0), id="16 bits, 0 is white"),
        pytest.param(tiff(scaled("u1")[::-1, ::-1], photometric=0), id="8 bits, 0 is white"),
        pytest.param(tiff(scaled("<i2", black=-(2**15)), kind=2), id="signed 16 bits"),
        pytest.param(tiff(scaled("<u4")), id="unsigned 32 bits"),
        pytest.param(tiff(scaled("<i4"), kind=2), id="signed 32 bits"),
        pytest.param(tiff(scaled("<f4", 1), kind=3), id="floats to 1"),
        pytest.param(tiff(scaled(">f4", 255), kind=3), id="floats to 255, big-endian"),
        pytest.param(tiff(scaled("<u2", 4095)), id="12 bits in 16"),
        pytest.param(b"P5 8 6 4095\n" + scaled(">u2", 4095).tobytes(), id="PGM to 4095"),
        pytest.param(b"Pf\n8 6\n-1.0\n" + scaled("<f4", 1)[::-1].tobytes(), id="PFM"),
    ],
)
def test_grey_files_keep_their_range(content):
    assert_looks_like(decode_image(content), GREY)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(scaled("<u2"), id="I;16"),
        pytest.param(scaled(">u2"), id="I;16B"),
        pytest.param(scaled("i4", 255), id="int32 to 255"),
        pytest.param(scaled("i4", 65535), id="int32 to 65535"),
        pytest.param(scaled("i4"), id="int32"),
        pytest.param(scaled("f4", 1), id="floats to 1"),
        pytest.param(scaled("f4", 255), id="floats to 255"),
        pytest.param(scaled("f4", 65535), id="floats to 65535"),
        pytest.param(scaled("f4", 1e9), id="floats to 1e9"),
        pytest.param(scaled("f4", 1, -1), id="floats from -1 to 1"),
        pytest.param(scaled("i4", 3071, -1024), id="computed tomography"),
    ],
)
def test_grey_images_keep_their_range(array):
    assert_looks_like(
        normalize_image(Image.fromarray(array)), GREY, atol=11 if "1.04" in str(array.max()) else 1
    )


@pytest.mark.parametrize(
    ("content", "brightest"),
    [
        pytest.param(to_file(Image.fromarray(scaled("<u2", 4095)), "PNG"), 16, id="16-bit PNG"),
        pytest.param(b"P5 8 6 65535\n" + scaled(">u2", 4095).tobytes(), 16, id="16-bit PGM"),
        pytest.param(to_file(Image.fromarray(scaled("u1", 9)), "PNG"), 9, id="8-bit PNG"),
    ],
)
def test_dark_pictures_stay_dark_where_the_file_states_its_range(content, brightest):
    assert decode_image(content).getextrema() == ((0, brightest),) * 3


def test_packed_12_bit_tiff_is_scaled_by_its_tag():
    """Its largest value is 2000 of 4095; two pixels share three bytes."""
    first, second = scaled("<u2", 2000).reshape(-1, 2).astype(int).T
    triples = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1)
    content = tiff(scaled("<u2"), bits=12, content=triples.astype("u1").tobytes())
    assert_looks_like(decode_image(content), GREY * 2000 / 4095)


def test_pixels_that_are_not_finite_are_black_or_white():
    array = scaled("f4", 1)
    array[0, 3], array[0, 4], array[0, 5] = np.nan, np.inf, -np.inf
    expected = GREY.copy()
    expected[0, 3:6] = [[0], [255], [0]]
    assert_looks_like(normalize_image(Image.fromarray(array)), expected)


def test_sixteen_bit_colours_become_eight():
    colours = np.broadcast_to(np.array(ORANGE) * 257, (6, 8, 3))
    assert_looks_like(decode_image(png16(colours, 2)), ORANGE)


# --- transparency ----------------------------------------------------------------------------


def half_transparent(mode, hidden, shown):
    """The left half is `hidden` under full transparency, the right half shows `shown`."""
    image = Image.new(mode, (8, 6), hidden)
    image.paste(shown, (4, 0, 8, 6))
    return image


def palette():
    image = half_transparent("P", 0, 1)
    image.putpalette([255, 0, 0, *ORANGE])
    return image


def deep(hidden, shown, color_type):
    halves = np.repeat(np.array([[hidden, shown]]), [4, 4], axis=1)
    return png16(np.repeat(halves, 6, axis=0) * 257, color_type)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        pytest.param(
            to_file(half_transparent("RGBA", (255, 0, 0, 0), (*ORANGE, 255)), format, **options),
            ORANGE,
            id=format,
        )
        for format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}))
    ]
    + [
        pytest.param(to_file(half_transparent("LA", (9, 0), (70, 255)), "PNG"), 70, id="grey"),
        pytest.param(to_file(palette(), "PNG", transparency=0), ORANGE, id="palette, one index"),
        pytest.param(to_file(palette(), "PNG", transparency=b"\0"), ORANGE, id="palette, alphas"),
        pytest.param(to_file(palette(), "GIF", transparency=0), ORANGE, id="GIF"),
        pytest.param(
            to_file(half_transparent("RGB", (1, 2, 3), ORANGE), "PNG", transparency=(1, 2, 3)),
            ORANGE,
            id="one colour",
        ),
        pytest.param(
            to_file(half_transparent("L", 9, 70), "PNG", transparency=9), 70, id="one grey value"
        ),
        pytest.param(
            to_file(half_transparent("I;16", 900, 70 * 257), "PNG", transparency=900),
            70,
            id="one grey value of 16 bits",
        ),
        pytest.param(deep((255, 0, 0, 0), (*ORANGE, 255), 6), ORANGE, id="16-bit colours"),
        pytest.param(deep((9, 0), (70, 255), 4), 70, id="16-bit grey"),
    ],
)
def test_transparent_parts_become_white(content, shown):
    image = decode_image(content)
    assert image.info == {TRANSPARENT: True}
    assert_looks_like(image.crop((0, 0, 4, 6)), 255)
    assert_looks_like(image.crop((4, 0, 8, 6)), shown)


def test_half_transparent_colours_mix_with_white():
    assert_looks_like(normalize_image(Image.new("RGBA", (8, 6), (255, 0, 0, 51))), (255, 204, 204))


def test_opaque_alpha_is_not_counted_as_transparent():
    assert normalize_image(orange.convert("RGBA")).info == {TRANSPARENT: False}


# --- rotation, frames --------------------------------------------------------------------------

# by orientation: the picture that such a file shows, from its array
UPRIGHT = {
    0: lambda x: x,
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).T,
    8: np.rot90,
    9: lambda x: x,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    "format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "16-bit PNG", "16-bit TIFF"]
)
def test_images_are_turned_as_their_exif_data_say(format, orientation):
    ramp = np.kron(RAMP, np.ones((16, 16)))  # survives lossy compression
    if format == "16-bit TIFF":
        content = tiff((ramp * 65535).astype("<u2"), _274=orientation)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        deep = format.startswith("16")
        image = Image.fromarray((ramp * (65535 if deep else 255)).astype("u2" if deep else "u1"))
        content = to_file(image, format.split()[-1], exif=exif)
    expected = 255 * UPRIGHT[orientation](ramp)[..., None]
    assert_looks_like(decode_image(content), expected, atol=8)


def test_pictures_with_damaged_exif_data_are_kept():
    content = to_file(orange, "PNG", exif=b"Exif\0\0garbage!")
    assert_looks_like(decode_image(content), ORANGE)


def test_pictures_are_turned_although_other_exif_data_are_damaged():
    """A tag that points beyond the data; writing these EXIF data again would fail."""
    entries = struct.pack("<HHII", 274, 3, 1, 6) + struct.pack("<HHII", 33434, 5, 1, 10**6)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    content = to_file(Image.fromarray(scaled("u1")), "PNG", exif=exif)
    assert_looks_like(decode_image(content), np.rot90(GREY, -1))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_first_frame_is_taken(format):
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    content = to_file(frames[0], format, save_all=True, append_images=frames[1:])
    assert_looks_like(decode_image(content), (255, 0, 0), atol=4)


# --- sizes, damage -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((20000, 2), "20000 x 2 pixels: a ratio over 100:1"),
        ((1, 101), "1 x 101 pixels: a ratio over 100:1"),
        ((9500, 9500), "9500 x 9500 pixels, over 89,478,485"),
        ((0, 5), "an image of 0 x 5 pixels"),
    ],
    ids=str,
)
def test_sizes_out_of_bounds_are_rejected(size, message):
    with pytest.raises(ValueError, match=message):
        normalize_image(Image.new("1", size))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_rejected_before_their_pixels_are_read(monkeypatch):
    content = to_file(Image.new("1", (9500, 9500)), "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="9500 x 9500 pixels, over"):
        decode_image(content)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (100, 1)], ids=str)
def test_small_pictures_are_kept(size):
    assert_looks_like(normalize_image(Image.new("RGB", size, ORANGE)), ORANGE)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_files_are_rejected(format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = to_file(Image.fromarray(noise), format)
    with pytest.raises((OSError, SyntaxError, ValueError)):
        decode_image(content[: len(content) * 3 // 4])


def test_image_without_finite_pixels_is_rejected():
    with pytest.raises(ValueError, match="no finite pixels"):
        normalize_image(Image.fromarray(np.full((4, 4), np.nan, np.float32)))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_common_formats_are_decoded(name):
    content = to_file(Image.new("RGB", (32, 32), "red"), name)
    assert decode_image(content).getpixel((9, 9))[0] > 250


def test_formats_that_run_programs_are_not_decoded(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("started"))
    with pytest.raises(ValueError, match="not an image file, or of an unknown format"):
        decode_image(to_file(Image.new("RGB", (8, 8)), "EPS"))
