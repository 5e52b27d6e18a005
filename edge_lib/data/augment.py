"""Image augmentation. It needs features.online: a feature store holds one view."""

import math

import torch
from PIL import Image


def random_crop(image: Image.Image) -> Image.Image:
    """A random 80-100% of the area at an aspect ratio within 10%, resized back.

    No flips: captions name left and right.
    """
    width, height = image.size
    area, ratio, left, top = torch.rand(4).tolist()
    side = math.sqrt(0.8 + 0.2 * area)
    stretch = math.sqrt(0.9 + 0.2 * ratio)
    w, h = min(width, round(width * side * stretch)), min(height, round(height * side / stretch))
    x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
    return image.crop((x, y, x + w, y + h)).resize(image.size, Image.Resampling.BICUBIC)
