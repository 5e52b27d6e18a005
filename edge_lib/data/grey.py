"""Grey images of more than 8 bits: 16-bit integers, 32-bit integers, floats."""

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

from edge_lib.data.unusable import UnusableItem

WHITE = (1, 255, 4095, 65535)  # values of white that such pixels come in
SCALED_TO_16_BITS = ("PNG", "PPM", "JPEG2000")  # by the format, or by Pillow when it reads it


def is_wide(image: Image.Image) -> bool:
    """Whether pixels are grey and have more than 8 bits; Pillow would clip them at 255."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def scale_grey(image: Image.Image) -> Image.Image:
    """Grey integers or floats -> 8 bits (mode L, or LA), with the image's other data.

    White is what the file says, else the smallest of `WHITE` that no pixel exceeds, else the
    largest pixel. Black is 0 or, where pixels are negative, -1 (with white at 1) or the smallest
    pixel. Pixels that are NaN are black. UnusableItem if no pixel is finite.
    """
    pixels = _pixels(image)
    transparent = pixels == image.info.get("transparency", np.nan)
    black, white = _black_and_white(pixels, _stated_white(image), image.mode == "F")
    np.nan_to_num(pixels, copy=False, nan=black, posinf=white, neginf=black)
    pixels -= black  # in place: eight bytes a pixel are 160 MB for a large picture
    pixels /= (white - black) or 1
    np.clip(pixels, 0, 1, out=pixels)
    if _tags(image).get(PHOTOMETRIC_INTERPRETATION) == 0:
        np.subtract(1, pixels, out=pixels)  # Pillow inverts such TIFFs up to 8 bits only
    pixels *= 255
    scaled = Image.fromarray(pixels.round(out=pixels).astype(np.uint8))
    scaled.info = {key: value for key, value in image.info.items() if key != "transparency"}
    if transparent.any():
        scaled.putalpha(Image.fromarray(~transparent))
    return scaled


def _tags(image: Image.Image) -> dict:
    """TIFF tags, of any other image none."""
    return getattr(image, "tag_v2", {})


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W) float64."""
    pixels = np.asarray(image)
    if image.mode == "I" and _tags(image).get(SAMPLEFORMAT) == (1,):
        pixels = pixels.view(np.uint32)  # Pillow reads unsigned 32 bits as signed
    return pixels.astype(np.float64)


def _stated_white(image: Image.Image) -> int | None:
    """The value of white by the file's format, if that says it."""
    bits = _tags(image).get(BITSPERSAMPLE, (16,))[0]
    if bits < 16:
        return 2**bits - 1
    return 65535 if image.format in SCALED_TO_16_BITS and image.mode != "F" else None


def _black_and_white(pixels: np.ndarray, stated: int | None, floats: bool) -> tuple[float, float]:
    finite = np.isfinite(pixels)
    if not finite.any():
        raise UnusableItem("no finite pixels")
    low = pixels.min(where=finite, initial=np.inf)
    high = pixels.max(where=finite, initial=-np.inf)
    slack = 0.1 * floats  # resizing overshoots
    white = stated or next((value for value in WHITE if high <= value * (1 + slack)), high)
    if low >= -slack * white:
        return 0, white
    return (-1, 1) if white == 1 and low >= -1 - slack else (low, high)
