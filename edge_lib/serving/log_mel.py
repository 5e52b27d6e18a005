"""Whisper's log-mel spectrogram (Radford et al. 2022, arXiv 2212.04356, section 2.2) in NumPy."""

from functools import cache

import numpy as np

from edge_lib.data.audio import RATE


def log_mel(clip: np.ndarray, n_fft: int, hop: int, bins: int) -> np.ndarray:
    """(n,) at 16 kHz -> (bins, n / hop) float32, of a range of 2 (8 powers of ten)."""
    padded = np.pad(clip.astype(np.float64), n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop][: len(clip) // hop]
    window = np.hanning(n_fft + 1)[:-1]
    powers = np.abs(np.fft.rfft(frames * window)) ** 2  # (frames, n_fft / 2 + 1)
    mel = np.log10(np.maximum(mel_filters(n_fft, bins) @ powers.T, 1e-10))
    return ((np.maximum(mel, mel.max() - 8) + 4) / 4).astype(np.float32)


@cache
def mel_filters(n_fft: int, bins: int) -> np.ndarray:
    """(bins, n_fft / 2 + 1) triangles of equal area on Slaney's mel scale, from 0 to 8 kHz."""
    edges = _hertz(np.linspace(0, _mel(RATE / 2), bins + 2))
    hertz = np.linspace(0, RATE / 2, n_fft // 2 + 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (hertz - low) / (peak - low), (high - hertz) / (high - peak)
    return np.minimum(rising, falling).clip(min=0) * 2 / (high - low)


# linear below 1 kHz, 15 mels; above it 27 mels are a factor of 6.4
def _mel(hertz: float) -> float:
    return 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < 15, mels * 1000 / 15, 1000 * 6.4 ** ((mels - 15) / 27))
