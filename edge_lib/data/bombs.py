"""Small image files that would take gigabytes or hours to decode."""

import re

from PIL import Image
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH

from edge_lib.data.unusable import UnusableItem

MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each costs a pass over all pixels
SCAN, END = 0xDA, 0xD9
MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # no stuffed byte, restart or fill byte


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
