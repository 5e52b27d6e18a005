"""Audio: any file becomes mono float32 at 16 kHz."""

import bombs
import numpy as np
import pytest
import soundfile
from audio_helpers import encode, sine

from edge_lib.data.audio import RATE, decode_audio, normalize_audio
from edge_lib.data.unusable import UnusableItem
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


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE"])
def test_samples_of_any_type_in_a_file_are_scaled(subtype):
    clip = decode_audio(encode(sine(0.1, RATE), RATE, subtype=subtype))
    np.testing.assert_allclose(clip, sine(0.1, RATE), atol=1 / 120)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u1", "f2", "f4", "f8"])
def test_samples_of_any_type_in_an_array_are_scaled(dtype):
    clip = sine(0.1, RATE)
    half = 2 ** (8 * np.dtype(dtype).itemsize - 1)
    samples = clip if dtype[0] == "f" else clip * half + half * (dtype[0] == "u")
    clip = normalize_audio(samples.astype(dtype))
    assert clip.dtype == np.float32
    np.testing.assert_allclose(clip, sine(0.1, RATE), atol=1 / 120)


@pytest.mark.parametrize("length", [1, 100, 399, 400, 401])
def test_short_clips_are_padded_to_25_ms(length):
    samples = sine(1, RATE)[1 : length + 1]
    clip = decode_audio(encode(samples, RATE, subtype="FLOAT"))
    assert len(clip) == max(400, length)
    np.testing.assert_array_equal(clip[:length], samples)
    assert not clip[length:].any()


def test_short_clips_at_a_high_rate_are_padded_after_resampling():
    assert len(decode_audio(encode(sine(0.01, 192_000), 192_000))) == 400


@pytest.mark.parametrize(
    ("samples", "rate", "subtype"),
    [
        pytest.param(np.zeros((0, 1)), RATE, "PCM_16", id="empty"),
        pytest.param(np.array([0.0, np.nan]), RATE, "FLOAT", id="nan"),
        pytest.param(np.array([0.0, -np.inf]), RATE, "FLOAT", id="infinite"),
        pytest.param(np.array([0.0, 1e30]), RATE, "FLOAT", id="huge"),
        pytest.param(np.array([0.0, 1e300]), RATE, "DOUBLE", id="huge doubles"),
        pytest.param(np.array([0.0, 9000.0]), RATE, "FLOAT", id="floats on the scale of int16"),
    ],
)
def test_decode_rejects_clips_without_usable_samples(samples, rate, subtype):
    with pytest.raises(ValueError, match="samples"):
        decode_audio(encode(samples, rate, subtype=subtype))


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_decode_rejects_rates_of_no_sound(rate):
    with pytest.raises(ValueError, match=f"{rate} Hz, allowed are 1000 to 768000 Hz"):
        decode_audio(encode(sine(0.1, RATE), rate))


def test_floats_somewhat_over_one_are_kept():
    clip = 3 * sine(0.1, RATE)
    np.testing.assert_array_equal(decode_audio(encode(clip, RATE, subtype="FLOAT")), clip)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"RIFF....WAVEnothing", id="damaged header"),
        pytest.param(b"", id="empty file"),
        pytest.param(to_flac(sine(1, RATE))[:9000], id="truncated FLAC"),
        pytest.param(encode(sine(1, RATE), RATE, "OGG")[:3000], id="truncated OGG"),
    ],
)
def test_decode_rejects_files_that_are_not_audio(content):
    with pytest.raises(soundfile.LibsndfileError):
        decode_audio(content)


# --- length ----------------------------------------------------------------------------------


def test_decode_takes_clips_up_to_a_length():
    clip = encode(sine(0.5, 8000), 8000)
    assert len(decode_audio(clip, max_seconds=0.5)) == RATE // 2
    with pytest.raises(UnusableItem, match=r"longer than 0\.49 s"):
        decode_audio(clip, max_seconds=0.49)


def test_decode_reads_no_more_than_the_allowed_length(monkeypatch):
    """A small FLAC of silence may last for hours."""
    monkeypatch.setattr("edge_lib.data.audio.BLOCK", 8000)
    read, lengths = soundfile.SoundFile.read, []

    def count(file, frames, **options):
        lengths.append(frames)
        return read(file, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", count)
    with pytest.raises(UnusableItem, match="longer than 1 s"):
        decode_audio(bombs.flac(60), max_seconds=1)
    assert sum(lengths) <= 1.5 * RATE


def test_decode_mixes_channels_in_parts_as_in_one(monkeypatch):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (5000, 6)).astype(np.float32)
    content = encode(noise, RATE, subtype="FLOAT")
    monkeypatch.setattr("edge_lib.data.audio.BLOCK", 1000)
    np.testing.assert_array_equal(decode_audio(content), normalize_audio(noise))


def test_decode_reads_wav_of_unknown_length():
    """As it is written to a pipe: the sizes in its header are the largest numbers."""
    content = bytearray(encode(sine(0.3, RATE), RATE))
    content[4:8] = content[40:44] = b"\xff" * 4
    np.testing.assert_allclose(decode_audio(bytes(content)), sine(0.3, RATE), atol=2**-15)


def test_decode_refuses_a_rate_before_it_reads():
    with pytest.raises(UnusableItem, match="999 Hz"):
        decode_audio(encode(sine(1.0, 999), 999), max_seconds=0.1)
