"""Sound in its one normal form: mono float32 at 16 kHz."""

import io
import math
from functools import cache

import numpy as np
import soundfile

RATE = 16000  # Hz, of all audio in a table once it is decoded


def decode(content: bytes) -> np.ndarray:
    """Any file soundfile reads (FLAC, WAV, MP3, OGG) -> (n,) float32, mono at `RATE`.

    ValueError if it holds no sound; soundfile's own error if it cannot be read.
    """
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    if not len(samples):
        raise ValueError("no samples")
    if not np.isfinite(samples).all():
        raise ValueError("samples that are not finite")
    return resample(samples.mean(axis=1), rate)


def resample(clip: np.ndarray, rate: int) -> np.ndarray:
    """(n,) at `rate` Hz -> (n * RATE / rate,) at `RATE`, by a polyphase filter."""
    if rate == RATE:
        return clip
    up, down, taps = _polyphase(rate)
    return resampling().resample_poly(clip, up, down, window=taps).astype(np.float32)


@cache
def _polyphase(rate: int) -> tuple[int, int, np.ndarray]:
    """Factors and the low-pass filter that `resample_poly` would design anew for each clip."""
    common = math.gcd(rate, RATE)
    up, down = RATE // common, rate // common
    longest = max(up, down)
    taps = resampling().firwin(20 * longest + 1, 1 / longest, window=("kaiser", 5.0))
    return up, down, taps.astype(np.float32)


def resampling():
    """scipy.signal, which takes a second to import: for who resamples alone."""
    from scipy import signal

    return signal
