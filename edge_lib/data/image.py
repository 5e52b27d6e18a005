"""The normal form of an image: RGB, 8 bits, upright. Tables, `embed` and `generate` all use it.

A change of what it looks like needs another `FORMAT` in `features/store.py`.
"""

from collections.abc import Sequence

from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError
from PIL.Image import Transpose

from edge_lib.data.bombs import BoundedFile, check_bomb
from edge_lib.data.grey import is_wide, scale_grey
from edge_lib.data.unusable import UnusableItem

# Pillow reads others too, EPS among them, for which it starts Ghostscript
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO")
MAX_PIXELS = 89_478_485  # Pillow warns of a decompression bomb above it
MAX_RATIO = 100  # of the sides; resizing the shorter one to 336 makes 11 million pixels of it
TURNS = {  # EXIF orientation
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
TRANSPARENT = "transparent"  # key of `Image.info`: parts of the picture were transparent


def decode_image(
    content: bytes, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS
) -> Image.Image:
    """An image file of one of `formats` -> its normal form. Raises UnusableItem for other bytes,
    for files that are small and costly, and as `normalize_image` does, else Pillow's own errors.
    """
    try:
        image = Image.open(BoundedFile(content), formats=formats)
    except UnidentifiedImageError:  # its text holds the address of the bytes in memory
        raise UnusableItem("not an image file, or of an unknown format") from None
    _check_size(*image.size, max_pixels)
    check_bomb(image, content, max_pixels)
    return normalize_image(image)


def normalize_image(image: Image.Image) -> Image.Image:
    """Any PIL image (of several frames the current one) -> RGB, turned as its EXIF data say.

    Transparent parts become white: what lies under them, which `convert("RGB")` would show, is
    arbitrary. `info` of the result says whether there were any. Pixels of more than 8 bits are
    scaled as in `scale_grey`. UnusableItem for too many pixels, sides that differ over 100-fold, or
    no finite pixel.
    """
    _check_size(*image.size, MAX_PIXELS)
    image = _upright(scale_grey(image) if is_wide(image) else image)
    rgb, transparent = _to_rgb(image)
    rgb.info = {TRANSPARENT: transparent}
    return rgb


def turn_of(image: Image.Image) -> Transpose | None:
    """What turns the image upright by its EXIF data; damaged ones turn nothing."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # the parser of EXIF data raises nearly anything
        return None


def blank_image() -> Image.Image:
    """An image that stands for a missing one."""
    return Image.new("RGB", (64, 64))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    """Before the pixels are decoded: a small file may hold very many."""
    if not width * height:
        raise UnusableItem(f"an image of {width} x {height} pixels")
    if width * height > max_pixels:
        raise UnusableItem(f"{width} x {height} pixels, over {max_pixels:,}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UnusableItem(f"{width} x {height} pixels: a ratio over {MAX_RATIO}:1")


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a damaged picture is an error
    turn = turn_of(image)
    # ImageOps.exif_transpose would write the EXIF data anew, and fail where others are damaged
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """RGB over white, and whether any part was transparent."""
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_rgb()), False
    if not image.has_transparency_data:
        return image.convert("RGB"), False
    rgba = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    return white.convert("RGB"), rgba.getchannel("A").getextrema()[0] < 255


def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, rgb, "LAB", "RGB")
