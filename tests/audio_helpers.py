"""Helpers for tests of audio: encoded clips."""

import io

import numpy as np
import soundfile


def encode_tone(seconds=0.5, rate=16000, format="FLAC"):
    """The bytes of a 440 Hz sine."""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=format)
    return buffer.getvalue()
