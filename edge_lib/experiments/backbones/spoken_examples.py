"""Spoken captions of scenes as log-mel features, with a label for every token of 40 ms.

eSpeak NG reports when each word begins. So each token has the word spoken during it as a label, and
digit, colour, size and place of the thing that the current phrase describes.
"""

import math
from functools import cache

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from edge_lib.data.audio import RATE
from edge_lib.experiments.backbones.examples import ExampleBatches
from edge_lib.sources.scenes.degrade import add_noise
from edge_lib.sources.scenes.generate import random_scenes
from edge_lib.sources.scenes.parallel import run_in_parallel
from edge_lib.sources.scenes.scene import COLOURS, DIGITS, Scene
from edge_lib.sources.scenes.speech import speak_scene

WINDOW, HOP, MELS = 6, 320, 40  # seconds, samples, mel bands
TOKENS = WINDOW * RATE // HOP // 2  # Whisper halves the number of frames
IGNORED = -1  # label of tokens after the end of the clip
NOISY_SHARE = 0.3  # of training clips
WORDS = sorted(
    {
        *("a", "and", "at", "big", "bottom", "centre", "in", "large", "left", "little", "on"),
        *("right", "small", "the", "top", *COLOURS, *DIGITS),
    }
)
# classes of each question about a token
QUESTIONS = {"word": len(WORDS), "digit": 10, "colour": len(COLOURS), "size": 2, "place": 9}


def speak_scenes(
    split: str, size: int, max_objects: int, seed: int, batch_size: int = 64
) -> ExampleBatches:
    """`size` captions in the split's voices; some training clips have noise over a part of them.

    Inputs (N, MELS, frames) fp16, log-mel; labels (N, TOKENS, questions), IGNORED after the end.
    """
    scenes = enumerate(random_scenes(split, size, max_objects, seed))
    jobs = ((scene, split, number, seed) for number, scene in scenes)
    inputs, labels = map(np.stack, zip(*run_in_parallel(_example, jobs), strict=True))
    return ExampleBatches(torch.from_numpy(inputs), torch.from_numpy(labels), batch_size, seed)


def token_labels(scene: Scene, words: list[tuple[int, float]], seconds: float) -> np.ndarray:
    """(TOKENS, questions) int8: the word spoken at each token, and the thing of its phrase.

    words: character index and start time of each word, from `speak`. eSpeak reports some short
    words together ("at the"); they count as the first of them.
    """
    starts = np.array(_phrase_starts(scene))
    labels = np.full((TOKENS, len(QUESTIONS)), IGNORED, np.int8)
    ends = [time for _, time in words[1:]] + [seconds]
    for (character, begin), end in zip(words, ends, strict=True):
        thing = scene.things[max(0, np.searchsorted(starts, character, "right") - 1)]
        tokens = slice(round(begin * TOKENS / WINDOW), math.ceil(end * TOKENS / WINDOW))
        word = WORDS.index(_first_word(scene.caption()[character:]))
        colour = list(COLOURS).index(thing.colour)
        labels[tokens] = word, thing.digit, colour, int(thing.large), thing.cell
    return labels


@cache
def feature_extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(
        feature_size=MELS, hop_length=HOP, chunk_length=WINDOW, n_fft=512, sampling_rate=RATE
    )


def _example(scene: Scene, split: str, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-mel (MELS, frames) and labels (TOKENS, questions) of one spoken scene."""
    clip, words = speak_scene(scene, split, number, seed)
    rng = np.random.default_rng([seed, number, 4])
    if split == "train" and rng.random() < NOISY_SHARE:
        clip = add_noise(clip, rng)
    features = feature_extractor()(clip, sampling_rate=RATE, return_tensors="np").input_features
    return features[0].astype(np.float16), token_labels(scene, words, len(clip) / RATE)


def _phrase_starts(scene: Scene) -> list[int]:
    """Index in the caption of the first character of each thing's phrase."""
    starts, end = [], 0
    for phrase in scene.phrases():
        starts.append(scene.caption().index(phrase, end))
        end = starts[-1] + len(phrase)
    return starts


def _first_word(text: str) -> str:
    """The first word, with a numeral spelled out as it is spoken."""
    word = text.replace(",", " ").split()[0]
    return DIGITS[int(word)] if word.isdigit() else word
