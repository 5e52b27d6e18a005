"""Speech: what eSpeak says, and what decoding makes of files of any kind."""

import io

import numpy as np
import pytest
import soundfile

from edge_lib.data.audio import RATE, decode
from edge_lib.sources.scenes.generate import twin_groups
from edge_lib.sources.scenes.speech import ACCENTS, VARIANTS, Voice, speak, to_flac

TEXT = "a large red three at the top left"


def encoded(samples, rate, format="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def sine(seconds, rate, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("f")


def loudest(clip):
    return np.fft.rfftfreq(len(clip), 1 / RATE)[np.abs(np.fft.rfft(clip)).argmax()]


# --- speaking --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [Voice("en-us+m1", 300, 50), Voice("en-us+f2", 300, 90), Voice("en-gb-scotland+f2", 300, 50)],
)
def test_speakers_pitches_and_accents_sound_different(other):
    one, _ = speak(TEXT, Voice("en-us+f2", 300, 50))
    two, _ = speak(TEXT, other)
    size = min(len(one), len(two))
    assert np.abs(one[:size] - two[:size]).mean() > 0.01


def test_faster_is_shorter():
    slow, fast = (len(speak(TEXT, Voice("en+m1", speed, 50))[0]) for speed in (240, 340))
    assert fast < 0.85 * slow


def test_words_are_marked_in_order_where_they_begin():
    clip, words = speak(TEXT, Voice("en-us+m1", 260, 50))
    characters, times = zip(*words, strict=True)
    assert list(characters) == sorted(characters)
    assert list(times) == sorted(times)
    assert times[0] < 0.05
    assert times[-1] < len(clip) / RATE
    begins = {TEXT.index(word) for word in TEXT.split()}
    assert set(characters) <= begins
    assert {TEXT.index("large"), TEXT.index("red"), TEXT.index("three")} <= set(characters)


def test_unknown_voice_is_an_error():
    with pytest.raises(RuntimeError, match="voice 'nobody'"):
        speak(TEXT, Voice("nobody", 300, 50))


def test_every_voice_speaks_and_no_speaker_is_in_two_splits():
    everyone = [name for names in VARIANTS.values() for name in names]
    assert len(set(everyone)) == len(everyone)
    for variant in everyone:
        clip, _ = speak(TEXT, Voice(f"{ACCENTS[0]}+{variant}", 300, 50))
        assert 1 < len(clip) / RATE < 4
        assert np.sqrt(np.mean(clip**2)) > 0.02


def test_the_longest_captions_fit_the_shipped_window():
    rng = np.random.default_rng(0)
    made = [s for group in twin_groups("test", 200, 4, 0) for s in group]
    longest = sorted((s.caption() for s in made), key=len)[-10:]
    clips = [speak(text, Voice.random(rng, "test"))[0] for text in longest]
    assert max(map(len, clips)) <= 6 * RATE


# --- decoding --------------------------------------------------------------------------------


def test_flac_keeps_16_bits():
    clip = sine(0.3, RATE)
    np.testing.assert_allclose(decode(to_flac(clip)), clip, atol=2**-15)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_any_rate_becomes_16_khz(rate):
    clip = decode(encoded(sine(1.0, rate), rate))
    assert abs(len(clip) - RATE) <= 1
    assert clip.dtype == np.float32
    assert abs(loudest(clip) - 440) < 1.5
    np.testing.assert_allclose(
        clip[2000:-2000], sine(1.0, RATE)[2000 : len(clip) - 2000], atol=0.01
    )


def test_resampling_down_lets_nothing_fold_back():
    clip = decode(encoded(sine(1.0, 48000, hertz=15000), 48000))
    assert np.abs(clip[500:-500]).max() < 0.01


def test_stereo_becomes_the_mean():
    left, right = sine(0.2, RATE, 300), sine(0.2, RATE, 500)
    clip = decode(encoded(np.stack([left, right], 1), RATE, subtype="FLOAT"))
    np.testing.assert_allclose(clip, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (encoded(np.zeros((0, 1)), RATE), ValueError),
        (encoded(np.array([0.0, np.nan]), RATE, subtype="FLOAT"), ValueError),
        (b"RIFF....WAVEnothing", soundfile.LibsndfileError),
        (b"", soundfile.LibsndfileError),
    ],
)
def test_what_holds_no_sound_is_an_error(content, error):
    with pytest.raises(error):
        decode(content)
