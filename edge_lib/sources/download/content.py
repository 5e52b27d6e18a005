"""Whether bytes are a picture that a table can decode."""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from edge_lib.data.bombs import BoundedFile, check_bomb
from edge_lib.data.image import FORMATS, MAX_PIXELS, MAX_RATIO, normalize_image, turn_of
from edge_lib.data.unusable import UnusableItem
from edge_lib.sources.download.statuses import Failure

SIDEWAYS = {Transpose.TRANSPOSE, Transpose.TRANSVERSE, Transpose.ROTATE_90, Transpose.ROTATE_270}
QUALITY = 95  # of a JPEG that is written


@dataclass(frozen=True)
class Picture:
    """status: "ok" or another of `STATUSES`; error: one line. width, height: as shown."""

    status: str
    error: str | None = None
    content: bytes | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None


def check_picture(content: bytes, max_side: int | None, max_pixels: int) -> Picture:
    """Decode a picture as a table does: the first frame, upright, and within its limits.

    The content stays as it is, except that a picture with a side over `max_side` becomes a JPEG of
    its normal form with that side. sha256: of the content that is returned.
    """
    try:
        image = _open(content, max_pixels)
        if max_side and max(image.size) > max_side:
            content, size = _smaller(image, max_side)
        else:
            size = _size(image)
    except Failure as failure:
        return Picture(failure.status, failure.error)
    return Picture("ok", None, content, hashlib.sha256(content).hexdigest(), *size)


def _open(content: bytes, max_pixels: int) -> Image.Image:
    """Not yet decoded."""
    try:
        image = Image.open(BoundedFile(content), formats=FORMATS)
    except UnidentifiedImageError:  # its text holds the address of the bytes in memory
        raise Failure("not_an_image", "of no format that is read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Failure("too_many_pixels", str(error)) from None
    except Exception as error:  # Pillow's parsers raise nearly anything
        raise _corrupt(error) from None
    _check_size(*image.size, min(max_pixels, MAX_PIXELS))
    try:
        check_bomb(image, content, MAX_PIXELS)
    except UnusableItem as bomb:
        status = "too_many_scans" if image.format in ("JPEG", "MPO") else "too_many_pixels"
        raise Failure(status, str(bomb)) from None
    return image


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise Failure("too_many_pixels", f"{width} x {height} pixels, over {max_pixels:,}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise Failure("too_many_pixels", f"{width} x {height} pixels: over {MAX_RATIO}:1")


def _size(image: Image.Image) -> tuple[int, int]:
    """Width and height as shown, of an image that can be decoded."""
    width, height = image.size
    # a JPEG at an eighth of its size in grey: all its data are read, in a third of the time
    reduced = image.draft("L", (1, 1))
    decoded = _decoded(image)
    if reduced is None:
        return decoded.size
    return (height, width) if turn_of(image) in SIDEWAYS else (width, height)


def _smaller(image: Image.Image, max_side: int) -> tuple[bytes, tuple[int, int]]:
    image.draft(None, (2 * max_side, 2 * max_side))  # no need to decode a JPEG any larger
    smaller = _decoded(image)
    smaller.thumbnail((max_side, max_side))
    file = io.BytesIO()
    smaller.save(file, "JPEG", quality=QUALITY)
    return file.getvalue(), smaller.size


def _decoded(image: Image.Image) -> Image.Image:
    try:
        return normalize_image(image)
    except Exception as error:
        raise _corrupt(error) from None


def _corrupt(error: Exception) -> Failure:
    return Failure("corrupt_image", str(error) or type(error).__name__)
