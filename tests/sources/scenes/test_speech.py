"""Speech: what eSpeak NG makes of texts, voices and speeds."""

import numpy as np
import pytest

from edge_lib.data.audio import RATE
from edge_lib.sources.scenes.generate import twin_groups
from edge_lib.sources.scenes.speech import ACCENTS, VARIANTS, Voice, speak

TEXT = "a large red three at the top left"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Voice("en-us+m1", 300, 50), id="speaker"),
        pytest.param(Voice("en-us+f2", 300, 90), id="pitch"),
        pytest.param(Voice("en-gb-scotland+f2", 300, 50), id="accent"),
    ],
)
def test_voices_sound_different(other):
    one, _ = speak(TEXT, Voice("en-us+f2", 300, 50))
    two, _ = speak(TEXT, other)
    size = min(len(one), len(two))
    assert np.abs(one[:size] - two[:size]).mean() > 0.01


def test_faster_speech_is_shorter():
    slow, fast = (len(speak(TEXT, Voice("en+m1", speed, 50))[0]) for speed in (240, 340))
    assert fast < 0.85 * slow


def test_word_starts_are_in_order_and_at_words_of_the_text():
    clip, words = speak(TEXT, Voice("en-us+m1", 260, 50))
    characters, times = zip(*words, strict=True)
    assert list(characters) == sorted(characters)
    assert list(times) == sorted(times)
    assert times[0] < 0.05
    assert times[-1] < len(clip) / RATE
    starts = {TEXT.index(word) for word in TEXT.split()}
    assert set(characters) <= starts
    assert {TEXT.index("large"), TEXT.index("red"), TEXT.index("three")} <= set(characters)


def test_unknown_voice_raises():
    with pytest.raises(RuntimeError, match="voice 'nobody'"):
        speak(TEXT, Voice("nobody", 300, 50))


def test_all_voices_speak_and_no_speaker_is_in_two_splits():
    speakers = [name for names in VARIANTS.values() for name in names]
    assert len(set(speakers)) == len(speakers)
    for variant in speakers:
        clip, _ = speak(TEXT, Voice(f"{ACCENTS[0]}+{variant}", 300, 50))
        assert 1 < len(clip) / RATE < 4
        assert np.sqrt(np.mean(clip**2)) > 0.02


def test_longest_captions_fit_the_window_of_tiny_whisper():
    rng = np.random.default_rng(0)
    scenes = [scene for group in twin_groups("test", 200, 4, 0) for scene in group]
    longest = sorted((scene.caption() for scene in scenes), key=len)[-10:]
    clips = [speak(text, Voice.random(rng, "test"))[0] for text in longest]
    assert max(map(len, clips)) <= 6 * RATE
