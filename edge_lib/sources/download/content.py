"""Whether bytes are a picture that a table can decode."""

import hashlib
import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from edge_lib.data.image import normalize_image
from edge_lib.sources.download.statuses import Failure

# Pillow reads others too, EPS among them, for which it starts Ghostscript
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "JPEG2000")
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
    """Decode a picture as a table does. Its content stays as it is, but a picture with a side over
    `max_side` becomes a smaller JPEG.
    """
    try:
        image = _decode(content, max_pixels)
    except Failure as failure:
        return Picture(failure.status, failure.error)
    if max_side and max(image.size) > max_side:
        image.thumbnail((max_side, max_side))
        content = _jpeg(image)
    return Picture("ok", None, content, hashlib.sha256(content).hexdigest(), *image.size)


def _decode(content: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_pixels(*image.size, max_pixels)
        return normalize_image(image)
    except Failure:
        raise
    except UnidentifiedImageError:
        raise Failure("not_an_image", "of no format that is read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Failure("too_many_pixels", str(error)) from None
    except Exception as error:  # Pillow's parsers raise nearly anything
        raise Failure("corrupt_image", str(error) or type(error).__name__) from None


def _check_pixels(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise Failure("too_many_pixels", f"{width} x {height} pixels, over {limit:,}")


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
