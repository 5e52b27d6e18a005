"""Decode audio files to mono float32 at 16 kHz."""

import io
import math
from functools import cache

import numpy as np
import soundfile

RATE = 16000  # Hz, of all decoded sound


def decode_audio(content: bytes) -> np.ndarray:
    """The bytes of any file that soundfile reads (FLAC, WAV, MP3, OGG) -> (n,) float32, mono.

    Raises ValueError for an empty file or samples that are not finite, soundfile's own error for
    a file that it cannot read.
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
    return scipy_signal().resample_poly(clip, up, down, window=taps).astype(np.float32)


@cache
def _polyphase(rate: int) -> tuple[int, int, np.ndarray]:
    """Factors and low-pass filter of `resample_poly`, which would design it for each clip."""
    common = math.gcd(rate, RATE)
    up, down = RATE // common, rate // common
    longest = max(up, down)
    taps = scipy_signal().firwin(20 * longest + 1, 1 / longest, window=("kaiser", 5.0))
    return up, down, taps.astype(np.float32)


def scipy_signal():
    """scipy.signal, imported when it is needed: that takes a second."""
    from scipy import signal

    return signal


def blank_clip() -> np.ndarray:
    """A second of silence, which stands for a missing clip."""
    return np.zeros(RATE, np.float32)
