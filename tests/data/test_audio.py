"""Audio: any file becomes mono float32 at 16 kHz."""

import numpy as np
import pytest
import soundfile
from audio_helpers import encode, sine

from edge_lib.data.audio import RATE, decode_audio
from edge_lib.sources.scenes.speech import to_flac


def loudest_frequency(clip):
    return np.fft.rfftfreq(len(clip), 1 / RATE)[np.abs(np.fft.rfft(clip)).argmax()]


def test_flac_keeps_16_bits():
    clip = sine(0.3, RATE)
    np.testing.assert_allclose(decode_audio(to_flac(clip)), clip, atol=2**-15)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_decode_resamples_any_rate_to_16_khz(rate):
    clip = decode_audio(encode(sine(1.0, rate), rate))
    assert abs(len(clip) - RATE) <= 1
    assert clip.dtype == np.float32
    assert abs(loudest_frequency(clip) - 440) < 1.5
    np.testing.assert_allclose(
        clip[2000:-2000], sine(1.0, RATE)[2000 : len(clip) - 2000], atol=0.01
    )


def test_downsampling_does_not_alias():
    clip = decode_audio(encode(sine(1.0, 48000, hertz=15000), 48000))
    assert np.abs(clip[500:-500]).max() < 0.01


def test_decode_averages_stereo():
    left, right = sine(0.2, RATE, 300), sine(0.2, RATE, 500)
    clip = decode_audio(encode(np.stack([left, right], 1), RATE, subtype="FLOAT"))
    np.testing.assert_allclose(clip, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "subtype"),
    [
        pytest.param(np.zeros((0, 1)), "PCM_16", id="empty"),
        pytest.param(np.array([0.0, np.nan]), "FLOAT", id="nan"),
    ],
)
def test_decode_rejects_clips_without_finite_samples(samples, subtype):
    with pytest.raises(ValueError, match="samples"):
        decode_audio(encode(samples, RATE, subtype=subtype))


@pytest.mark.parametrize(
    "content", [b"RIFF....WAVEnothing", b""], ids=["damaged header", "empty file"]
)
def test_decode_rejects_files_that_are_not_audio(content):
    with pytest.raises(soundfile.LibsndfileError):
        decode_audio(content)
