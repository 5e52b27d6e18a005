"""Images in their one normal form: PIL, RGB."""

import io

import numpy as np
from PIL import Image


def decode_image(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return image.convert("RGB")
