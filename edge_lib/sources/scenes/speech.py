"""Speech: captions spoken by eSpeak NG in many voices, as FLAC.

eSpeak NG (espeak-ng.org) is a small, fast, offline formant synthesiser. `espeakng-loader` ships the
library; it is called through ctypes and loaded when the first caption is spoken. A voice is an
accent with a variant (the speaker). No variant is in two splits, so test speakers are unseen.

The synthesiser's random breath and tremor continue from one utterance to the next: the same texts
in the same order give the same samples in each new process.
"""

import ctypes
import io
from dataclasses import dataclass
from functools import cache
from itertools import count as count_up
from itertools import takewhile
from pathlib import Path

import numpy as np
import soundfile

from edge_lib.data.audio import RATE, resample
from edge_lib.sources.scenes.scene import SPLITS, Scene

ACCENTS = ("en", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc")
VARIANTS = {
    "train": (
        *("m1", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f5", "Alex", "Alicia", "Andy", "Annie"),
        *("Denis", "Gene", "Lee", "Michael", "Mike", "Reed", "anika", "ed", "linda", "robert"),
    ),
    "val": ("m2", "f3"),
    "test": ("m5", "f4", "belinda"),
}
SPEEDS = (240, 340)  # words per minute
PITCHES = (35, 65)  # on eSpeak's scale of 0 to 99

# constants of espeak-ng/speak_lib.h
_SYNCHRONOUS, _RATE, _PITCH, _UTF8, _CHARACTER, _WORD = 2, 1, 3, 1, 1, 1


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),  # 0 marks the end of the list
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # of a word's first character, from 1
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True)
class Voice:
    """An eSpeak voice by name (accent+variant), its speed in words per minute, its pitch (0-99)."""

    name: str
    speed: int
    pitch: int

    @classmethod
    def random(cls, rng: np.random.Generator, split: str) -> "Voice":
        """A random speaker of the split, with random accent, speed and pitch."""
        return cls(
            name=f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS[split])}",
            speed=int(rng.integers(*SPEEDS)),
            pitch=int(rng.integers(*PITCHES)),
        )


def speak(text: str, voice: Voice) -> tuple[np.ndarray, list[tuple[int, float]]]:
    """Return samples (n,) float32 in [-1, 1] at `RATE`, and the start of each spoken word: the
    index of its first character in the text, and its time in seconds.

    Raises RuntimeError if eSpeak fails, e.g. for an unknown voice.
    """
    engine, rate, chunks, words = _engine()
    chunks.clear()
    words.clear()
    content = text.encode()
    _check(engine.espeak_SetVoiceByName(voice.name.encode()), f"voice {voice.name!r}")
    _check(engine.espeak_SetParameter(_RATE, voice.speed, 0), f"speed {voice.speed}")
    _check(engine.espeak_SetParameter(_PITCH, voice.pitch, 0), f"pitch {voice.pitch}")
    size = len(content) + 1
    synth = engine.espeak_Synth(content, size, 0, _CHARACTER, 0, _UTF8, None, None)
    _check(synth, f"text {text!r}")
    clip = resample(np.concatenate(chunks).astype(np.float32) / 2**15, rate)
    return clip, [(character - 1, sample / rate) for character, sample in words]


def speak_scene(
    scene: Scene, split: str, number: int, seed: int
) -> tuple[np.ndarray, list[tuple[int, float]]]:
    """`speak` the caption of the split's scene `number`, in one of the split's voices."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number, 2])
    voice = Voice.random(rng, "test" if split == "swap" else split)
    return speak(scene.caption(), voice)


def to_flac(clip: np.ndarray) -> bytes:
    """(n,) samples at `RATE` -> a 16-bit FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, clip, RATE, format="FLAC", subtype="PCM_16", compression_level=0.2)
    return buffer.getvalue()


@cache
def _engine():
    """The library, its sample rate, and the lists of samples and words that its callback fills."""
    import espeakng_loader

    engine, chunks, words = ctypes.CDLL(espeakng_loader.get_library_path()), [], []
    data = str(Path(espeakng_loader.get_data_path()).parent).encode()
    rate = engine.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
    _check(min(rate, 0), "initialisation")

    @_Callback
    def collect(samples, count, events):
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in takewhile(lambda event: event.type, map(events.__getitem__, count_up())):
            if event.type == _WORD:
                words.append((event.text_position, event.sample))
        return 0

    engine.espeak_SetSynthCallback(collect)
    ctypes.CDLL(None).srand(0)  # eSpeak draws from two generators and seeds one from the clock
    engine.espeak_ng_SetRandSeed(ctypes.c_long(0))
    engine.callback = collect  # a reference: ctypes keeps none
    return engine, rate, chunks, words


def _check(code: int, operation: str) -> None:
    if code:
        raise RuntimeError(f"eSpeak NG: {operation}: error {code}")
