"""The tiny speech backbone: labels of tokens, examples, masked bands."""

import numpy as np
import torch

from edge_lib.experiments.backbones.speech import mask_bands
from edge_lib.experiments.backbones.spoken_examples import (
    IGNORED,
    MELS,
    QUESTIONS,
    TOKENS,
    WORDS,
    speak_scenes,
    token_labels,
)
from edge_lib.sources.scenes.scene import Scene, Thing

SCENE = Scene((Thing(3, "red", True, 0, 0), Thing(1, "blue", False, 3, 1)), 2)


def test_token_labels_follow_words_and_phrases():
    caption = SCENE.caption()
    assert caption == "a big red 3 at the top left and a little blue 1 on the left"
    # 150 tokens in 6 s: a second is 25 tokens
    words = [(0, 0.0), (caption.index("3"), 1.0), (caption.index("blue"), 2.0)]
    labels = token_labels(SCENE, words, 3.0)
    assert labels.shape == (TOKENS, len(QUESTIONS))
    assert [WORDS[labels[token, 0]] for token in (0, 24, 25, 50, 74)] == ["a", "a", "three"] + [
        "blue"
    ] * 2
    assert labels[25, 1:].tolist() == [3, 0, 1, 0]
    assert labels[50, 1:].tolist() == [1, 2, 0, 3]
    assert (labels[75:] == IGNORED).all()


def test_spoken_examples_have_labels_for_every_token_of_the_clip():
    batches = speak_scenes("val", 3, 2, 0, batch_size=2)
    assert batches.inputs.shape == (3, MELS, 2 * TOKENS)
    assert batches.inputs.dtype == torch.float16
    assert batches.labels.shape == (3, TOKENS, len(QUESTIONS))
    valid = (batches.labels != IGNORED).all(-1)
    assert (valid.sum(1) > 25).all()
    for row in valid.numpy():  # valid up to the end of the clip, then ignored
        assert (np.diff(row.astype(int)) <= 0).all()


def test_mask_bands_sets_whole_bands_to_zero():
    torch.manual_seed(0)
    mels = torch.ones(64, MELS, 5)
    masked = mask_bands(mels)
    zero = masked == 0
    assert (zero == zero[..., :1]).all()
    assert 0 < zero[..., 0].float().mean() < 2 * 6 / MELS
    assert (mels == 1).all()
