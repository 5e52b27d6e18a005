"""Train the tiny Whisper encoder the package ships: it recognises spoken scenes.

eSpeak tells when each word begins, so that every token (40 ms) can be asked which word it hears,
and, as the vision backbone is asked of every cell, which digit, colour, size and place the phrase
is about. Such labels teach in minutes what a loss without alignment takes hours to find out.
What ships is judged by its word error rate on speakers it has never heard.
"""

import math
from copy import deepcopy
from functools import cache, partial
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from edge_lib.config import SpeechBackboneConfig
from edge_lib.data.audio import RATE
from edge_lib.experiments.backbones.examples import Examples, LabelledBatch, train_reader
from edge_lib.sources.scenes.degrade import add_noise
from edge_lib.sources.scenes.generate import random_scenes
from edge_lib.sources.scenes.parallel import in_parallel
from edge_lib.sources.scenes.scene import COLOURS, DIGITS, Scene
from edge_lib.sources.scenes.table import say

WINDOW, HOP, MELS = 6, 320, 40  # seconds, samples, bands


TOKENS = WINDOW * RATE // HOP // 2  # Whisper halves the frames


NONE = -1  # label of a token after the end


WORDS = sorted(
    {
        *("a", "and", "at", "big", "bottom", "centre", "in", "large", "left", "little", "on"),
        *("right", "small", "the", "top", *COLOURS, *DIGITS),
    }
)


QUESTIONS = {
    "word": len(WORDS),
    "digit": 10,
    "colour": len(COLOURS),
    "size": 2,
    "place": 9,
}


NOISY = 0.3  # share of training clips with noise over a part of them


CARD = """# tiny-whisper

A `WhisperEncoder` (0.6M parameters; 40 mel bands, 6 s, a token each 40 ms) that recognises captions
of scenes spoken by eSpeak NG. Trained from scratch by `notebooks/00_backbones.ipynb`; weights in
fp16. For demonstrations and tests: it knows {words} words.

On speakers it has never heard (word error rate; share of tokens named right by a linear layer):

| | |
|---|---|
{scores}
""".replace("{words}", str(len(WORDS)))


def speak_scenes(
    split: str, size: int, max_objects: int, seed: int, batch_size: int = 64
) -> Examples:
    """Examples: `size` captions in the split's voices, some of the training ones partly noisy.

    Inputs (N, MELS, frames) fp16, log-mel; labels (N, TOKENS, questions), NONE beyond the end.
    """
    made = enumerate(random_scenes(split, size, max_objects, seed))
    jobs = ((scene, split, number, seed) for number, scene in made)
    inputs, labels = map(np.stack, zip(*in_parallel(_example, jobs), strict=True))
    return Examples(torch.from_numpy(inputs), torch.from_numpy(labels), batch_size, seed)


def _example(scene: Scene, split: str, number: int, seed: int) -> tuple:
    """Log-mel (MELS, frames) and labels (TOKENS, questions) of one spoken scene."""
    clip, words = say(scene, split, number, seed)
    rng = np.random.default_rng([seed, number, 4])
    if split == "train" and rng.random() < NOISY:
        clip = add_noise(clip, rng)
    mel = _extractor()(clip, sampling_rate=RATE, return_tensors="np").input_features[0]
    return mel.astype(np.float16), token_labels(scene, words, len(clip) / RATE)


def token_labels(scene: Scene, words: list[tuple[int, float]], seconds: float) -> np.ndarray:
    """(TOKENS, questions) int8: the word said at each token, and the thing it helps to describe.

    words: as `speech.speak` gives them. A few that run together ("at the") count as the first.
    """
    caption, first = scene.caption(), 0
    starts = []  # of each thing's phrase
    for phrase in scene.phrases():
        first = caption.index(phrase, first)
        starts.append(first)
        first += len(phrase)
    labels = np.full((TOKENS, len(QUESTIONS)), NONE, np.int8)
    ends = [time for _, time in words[1:]] + [seconds]
    for (character, begin), end in zip(words, ends, strict=True):
        thing = scene.things[max(0, np.searchsorted(starts, character, "right") - 1)]
        labels[_token(begin) : math.ceil(end * TOKENS / WINDOW)] = (
            WORDS.index(_spelled(caption[character:])),
            thing.digit,
            list(COLOURS).index(thing.colour),
            int(thing.large),
            thing.cell,
        )
    return labels


def _token(seconds: float) -> int:
    return round(seconds * TOKENS / WINDOW)


def _spelled(text: str) -> str:
    """The first word, a numeral as it is spoken."""
    word = text.replace(",", " ").split()[0]
    return DIGITS[int(word)] if word.isdigit() else word


class SpeechReader(nn.Module):
    """A Whisper encoder with a linear head that names what each token hears."""

    def __init__(self, encoder: WhisperEncoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.d_model, sum(QUESTIONS.values()))

    @classmethod
    def new(cls, config: SpeechBackboneConfig) -> "SpeechReader":
        """One with random weights."""
        architecture = WhisperConfig(
            num_mel_bins=MELS,
            max_source_positions=TOKENS,
            d_model=config.width,
            encoder_layers=config.layers,
            encoder_attention_heads=config.heads,
            encoder_ffn_dim=2 * config.width,
            dropout=0.0,
            **{"vocab_size": 3, "decoder_layers": 1},  # of a decoder that is never made
            **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            decoder_start_token_id=1,
        )
        return cls(WhisperEncoder(architecture))

    def answers(self, mels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, MELS, frames) -> logits (B, TOKENS, classes) of each question."""
        tokens = self.encoder(mels.float()).last_hidden_state
        return self.head(tokens).float().split(list(QUESTIONS.values()), dim=-1)

    def forward(self, batch: LabelledBatch) -> torch.Tensor:
        """Mean cross-entropy of the tokens' answers."""
        parts = self.answers(hide_bands(batch.inputs))
        labels = batch.labels.flatten(0, 1).long().unbind(-1)
        pairs = zip(parts, labels, strict=True)
        losses = [F.cross_entropy(p.flatten(0, 1), y, ignore_index=NONE) for p, y in pairs]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def scores(self, data: Examples) -> dict[str, float]:
        """Word error rate, and the share of tokens that answer each question right."""
        right, errors, said = [], 0, 0
        for batch in data.chunks():
            parts = self.answers(batch.inputs.to(self.head.weight.device))
            named = torch.stack([part.argmax(-1).cpu() for part in parts], dim=-1)
            speech = batch.labels[..., 0] != NONE
            right.append((named == batch.labels)[speech])
            for heard, spoken, inside in zip(named, batch.labels, speech, strict=True):
                heard, spoken = (_without_repeats(x[inside, 0]) for x in (heard, spoken))
                errors, said = errors + Levenshtein.distance(heard, spoken), said + len(spoken)
        shares = torch.cat(right).float().mean(0).tolist()
        return {"word error rate": errors / said, **dict(zip(QUESTIONS, shares, strict=True))}

    def save_pretrained(self, folder: Path) -> None:
        """The encoder in half precision, as a checkpoint any `from_pretrained` reads; the linear
        head lies beside it.
        """
        deepcopy(self.encoder).half().save_pretrained(folder)
        _extractor().save_pretrained(folder)
        save_file(self.head.state_dict(), folder / "head.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path) -> "SpeechReader":
        encoder = WhisperEncoder.from_pretrained(folder, dtype=torch.float32)
        reader = cls(encoder)
        reader.head.load_state_dict(load_file(folder / "head.safetensors"))
        return reader.eval()


def train_speech(config: SpeechBackboneConfig, seed: int, run_folder: Path) -> dict[str, float]:
    """Train a `SpeechReader` on train voices; keep the one with the fewest errors on val voices."""

    def evaluate(reader: SpeechReader, data: Examples) -> dict[str, float]:
        errors = reader.scores(data)["word error rate"]
        return {"val.word_error_rate": errors, "score": -errors}

    new = partial(SpeechReader.new, config)
    return train_reader(new, speak_scenes, config, evaluate, seed, run_folder)


def hide_bands(mels: torch.Tensor, times: int = 2, widest: int = 6) -> torch.Tensor:
    """(B, MELS, frames) with random bands set to 0 in each (SpecAugment, arXiv 1904.08779)."""
    bands = torch.arange(mels.shape[1], device=mels.device)
    for _ in range(times):
        width, start = (torch.rand(2, len(mels), 1, device=mels.device)).unbind()
        width = width * (widest + 1)
        start = start * (mels.shape[1] - width)
        mels = mels.masked_fill(((bands >= start) & (bands < start + width - 1))[..., None], 0)
    return mels


def _without_repeats(labels: torch.Tensor) -> list[int]:
    return [label for label, _ in groupby(labels.tolist())]


@cache
def _extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(
        feature_size=MELS, hop_length=HOP, chunk_length=WINDOW, n_fft=512, sampling_rate=RATE
    )
