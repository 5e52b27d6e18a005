"""Damaged inputs: part of an image hidden, part of a clip covered by noise.

Degraded splits measure how well a fusion makes up for one modality with another.
"""

import numpy as np
from PIL import Image

HIDDEN_SIDE = 0.6  # of an image's height and width: about a third of its area
NOISY_SHARE = 0.5  # of a clip's length
NOISE_GAIN = 2.0  # RMS of the noise over the clip's own: a signal-to-noise ratio of -6 dB


def occlude(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Paint a random rectangle grey."""
    width, height = (round(HIDDEN_SIDE * side) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    damaged = image.copy()
    damaged.paste((128, 128, 128), (left, top, left + width, top + height))
    return damaged


def add_noise(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) samples -> (n,) with white noise over a random part, within [-1, 1]."""
    length = round(NOISY_SHARE * len(clip))
    start = int(rng.integers(len(clip) - length + 1))
    damaged = clip.copy()
    noise = rng.standard_normal(length).astype(clip.dtype)
    damaged[start : start + length] += NOISE_GAIN * np.sqrt(np.mean(clip**2)) * noise
    return damaged.clip(-1, 1)
