"""The normal form of sound: mono float32 at 16 kHz, at least 25 ms. Tables, `embed` and `generate`
all use it.

A change of what it is needs another `FORMAT` in `features/store.py`.
"""

import io
import math
from functools import lru_cache

import numpy as np
import soundfile

from edge_lib.data.unusable import UnusableItem

RATE = 16000  # Hz, of all decoded sound
RATES = (1000, 768_000)  # Hz, of files; others would make billions of samples or filter taps
MIN_SAMPLES = 400  # 25 ms, a frame of Whisper's and AST's spectrograms
BLOCK = 1 << 20  # samples of all channels that are read at once
MAX_PEAK = 16  # floats go from -1 to 1; above this, they are no sound or have another scale


def decode_audio(content: bytes, max_seconds: float = math.inf) -> np.ndarray:
    """The bytes of any file that soundfile reads (FLAC, WAV, MP3, OGG) -> its normal form. Raises
    UnusableItem for a longer clip and as `normalize_audio` does, soundfile's own error for a file
    that it cannot read.
    """
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        _check_rate(file.samplerate)
        return normalize_audio(_read_mono(file, max_seconds), file.samplerate)


def normalize_audio(samples: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Samples (n,) or (n, channels) at `rate` Hz -> (m,) float32 at 16 kHz, m >= MIN_SAMPLES.

    Channels are averaged; integers are scaled to -1..1 by the range of their type; a clip that is
    too short for one frame of an encoder is padded with silence. UnusableItem for no samples, for
    samples that are not finite or far over 1, and for a rate of no sound.
    """
    if not samples.size:
        raise UnusableItem("no samples")
    _check_rate(rate)
    if not np.abs(clip := _mono(samples)).max() <= MAX_PEAK:  # true for NaN, too
        raise UnusableItem(f"samples that are not finite, or not within -{MAX_PEAK}..{MAX_PEAK}")
    clip = resample(clip, rate)
    return np.pad(clip, (0, max(0, MIN_SAMPLES - len(clip))))


def _read_mono(file: soundfile.SoundFile, max_seconds: float) -> np.ndarray:
    """(n,) float32, read in parts: a small file may hold very many samples or a thousand channels,
    and the number in its header may be wrong.
    """
    parts, length, size = [], 0, max(1, BLOCK // file.channels)
    while len(part := file.read(size, dtype="float32")):
        parts.append(_mono(part))
        if (length := length + len(part)) > max_seconds * file.samplerate:
            raise UnusableItem(f"longer than {max_seconds:g} s")
    return np.concatenate(parts or [np.empty(0, np.float32)])


def _check_rate(rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise UnusableItem(f"{rate} Hz, allowed are {RATES[0]} to {RATES[1]} Hz")


def _mono(samples: np.ndarray) -> np.ndarray:
    """(n,) float32; integers scaled to -1..1."""
    if samples.dtype.kind in "iu":
        half = 2 ** (8 * samples.itemsize - 1)
        samples = samples / half - (samples.dtype.kind == "u")
    with np.errstate(over="ignore", invalid="ignore"):
        return samples.reshape(len(samples), -1).mean(axis=1, dtype=np.float32)


def resample(clip: np.ndarray, rate: int) -> np.ndarray:
    """(n,) at `rate` Hz -> (n * RATE / rate,) at `RATE`, by a polyphase filter."""
    if rate == RATE:
        return clip
    up, down, taps = _polyphase(rate)
    return scipy_signal().resample_poly(clip, up, down, window=taps).astype(np.float32)


@lru_cache(2)  # up to 60 MB each, at a rate that shares no factor with 16 kHz
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
