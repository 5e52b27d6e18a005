"""Damage: hide part of an image, drown part of a clip in noise.

What one modality has lost another may still hold: degraded splits ask how well a fusion uses that.
"""

import numpy as np
from PIL import Image

HIDDEN = 0.6  # of an image's height and width, so about a third of its area


NOISY = 0.5  # of a clip's length


LOUDNESS = 2.0  # of the noise, against the clip's own root mean square: -6 dB


def occlude(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Grey out a random rectangle."""
    width, height = (round(HIDDEN * side) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    damaged = image.copy()
    damaged.paste((128, 128, 128), (left, top, left + width, top + height))
    return damaged


def add_noise(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) samples -> (n,) with white noise over a random stretch, within [-1, 1]."""
    length = round(NOISY * len(clip))
    start = int(rng.integers(len(clip) - length + 1))
    damaged = clip.copy()
    noise = rng.standard_normal(length).astype(clip.dtype)
    damaged[start : start + length] += LOUDNESS * np.sqrt(np.mean(clip**2)) * noise
    return damaged.clip(-1, 1)
