"""Decode image files to RGB PIL images."""

import io

import numpy as np
from PIL import Image


def decode_image(content: bytes) -> Image.Image:
    """The bytes of any image file that Pillow reads -> RGB. Raises Pillow's own errors."""
    image = Image.open(io.BytesIO(content))
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return image.convert("RGB")


def blank_image() -> Image.Image:
    """An image that stands for a missing one."""
    return Image.new("RGB", (64, 64))
