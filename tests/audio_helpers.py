"""Helpers for tests of audio: sines, and clips as the bytes of a file."""

import io

import numpy as np
import soundfile


def sine(seconds, rate, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f")


def encode(samples, rate, format="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()
