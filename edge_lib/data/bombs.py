"""Small image files that would take gigabytes or hours to decode."""

import io
import re

from PIL import Image
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH

from edge_lib.data.unusable import UnusableItem

MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each costs a pass over all pixels
MAX_EXIF = 100  # parts of EXIF data; Pillow copies all earlier ones for each
SCAN, END = 0xDA, 0xD9
MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # no stuffed byte, restart or fill byte


class BoundedFile(io.BytesIO):
    """An image file in memory that is read a limited number of times, then UnusableItem: Pillow
    reads fill bytes of a JPEG, empty chunks of a PNG and the like one by one, in seconds for 20 MB.
    UnusableItem as well for EXIF data in over `MAX_EXIF` parts.
    """

    def __init__(self, content: bytes):
        if content.count(b"Exif\0\0") > MAX_EXIF:
            raise UnusableItem(f"EXIF data in over {MAX_EXIF} parts")
        super().__init__(content)
        self._left = 10_000 + len(content) // 64  # encoders write parts of 4 kB and more

    def read(self, size: int | None = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise UnusableItem("the file consists of too many small parts")
        return super().read(size)


def check_bomb(image: Image.Image, content: bytes, max_pixels: int) -> None:
    """Before an image file is decoded: UnusableItem for a TIFF with tiles over `max_pixels`, which
    may be far larger than the image, and for a JPEG of too many scans.
    """
    tags = getattr(image, "tag_v2", {})
    if (tile := tags.get(TILEWIDTH, 0) * tags.get(TILELENGTH, 0)) > max_pixels:
        raise UnusableItem(f"tiles of {tile:,} pixels, over {max_pixels:,}")
    possible = image.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > MAX_SCANS
    if possible and _scans(content) > MAX_SCANS:
        raise UnusableItem(f"a JPEG of over {MAX_SCANS} scans")


def _scans(content: bytes) -> int:
    """Scans of a JPEG, without those of pictures and videos inside or behind it."""
    count, position = 0, 2
    while (marker := MARKER.search(content, position)) and marker[1][0] != END:
        count += marker[1][0] == SCAN
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return count
