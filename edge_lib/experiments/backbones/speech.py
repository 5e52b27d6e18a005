"""Train the tiny Whisper encoder that the package ships: it recognises spoken captions of scenes.

Every token (40 ms) is classified with a label of its own: the word, and digit, colour, size and
place of the thing that is described. With these aligned labels training takes minutes; with a loss
that has to find the alignment it would take hours. The published model is evaluated by its word
error rate on unseen speakers.
"""

from copy import deepcopy
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from safetensors.torch import load_file
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from edge_lib.config import SpeechBackboneConfig
from edge_lib.experiments.backbones.examples import ExampleBatches, LabelledBatch
from edge_lib.experiments.backbones.spoken_examples import (
    IGNORED,
    MELS,
    QUESTIONS,
    TOKENS,
    WORDS,
    feature_extractor,
    speak_scenes,
)
from edge_lib.experiments.backbones.training import train_on_scenes
from edge_lib.runs.tensors import save_tensors, share_tensors

CARD = """# tiny-whisper

A `WhisperEncoder` (0.6M parameters; 40 mel bands, 6 s, one token per 40 ms) trained from scratch by
`notebooks/00_backbones.ipynb` on captions of scenes spoken by eSpeak NG. Weights in fp16. For
demonstrations and tests only: its training data has {words} different words.

On unseen speakers (word error rate; accuracy of a linear layer on the tokens):

| | |
|---|---|
{scores}
""".replace("{words}", str(len(WORDS)))


class SpeechReader(nn.Module):
    """A Whisper encoder with a linear head that classifies each token."""

    def __init__(self, encoder: WhisperEncoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.d_model, sum(QUESTIONS.values()))

    @classmethod
    def new(cls, config: SpeechBackboneConfig) -> "SpeechReader":
        """An untrained model."""
        architecture = WhisperConfig(
            num_mel_bins=MELS,
            max_source_positions=TOKENS,
            d_model=config.width,
            encoder_layers=config.layers,
            encoder_attention_heads=config.heads,
            encoder_ffn_dim=2 * config.width,
            dropout=0.0,
            **{"vocab_size": 3, "decoder_layers": 1},  # of the decoder, which is not built
            **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            decoder_start_token_id=1,
        )
        return cls(WhisperEncoder(architecture))

    def logits(self, mels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, MELS, frames) -> (B, TOKENS, classes) for each question."""
        tokens = self.encoder(mels.float()).last_hidden_state
        return self.head(tokens).float().split(list(QUESTIONS.values()), dim=-1)

    def forward(self, batch: LabelledBatch) -> torch.Tensor:
        """Mean cross-entropy () over tokens, averaged over questions."""
        parts = self.logits(mask_bands(batch.inputs))
        labels = batch.labels.flatten(0, 1).long().unbind(-1)
        pairs = zip(parts, labels, strict=True)
        losses = [F.cross_entropy(p.flatten(0, 1), y, ignore_index=IGNORED) for p, y in pairs]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def scores(self, data: ExampleBatches) -> dict[str, float]:
        """Word error rate, and the share of tokens classified right for each question."""
        right, errors, total = [], 0, 0
        for batch in data.chunks():
            parts = self.logits(batch.inputs.to(self.head.weight.device))
            classes = torch.stack([part.argmax(-1).cpu() for part in parts], dim=-1)
            mask = batch.labels[..., 0] != IGNORED
            right.append((classes == batch.labels)[mask])
            for predicted, spoken, valid in zip(classes, batch.labels, mask, strict=True):
                predicted, spoken = (_without_repeats(x[valid, 0]) for x in (predicted, spoken))
                errors += Levenshtein.distance(predicted, spoken)
                total += len(spoken)
        shares = torch.cat(right).float().mean(0).tolist()
        return {"word error rate": errors / total, **dict(zip(QUESTIONS, shares, strict=True))}

    def save_pretrained(self, folder: Path) -> None:
        """Write the encoder (fp16) and its feature extractor as a transformers checkpoint, and the
        head in a file beside them.
        """
        deepcopy(self.encoder).half().save_pretrained(folder)
        share_tensors(folder)
        feature_extractor().save_pretrained(folder)
        save_tensors(self.head.state_dict(), folder / "head.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path) -> "SpeechReader":
        """Load what `save_pretrained` wrote, in fp32 and evaluation mode."""
        encoder = WhisperEncoder.from_pretrained(folder, dtype=torch.float32)
        reader = cls(encoder)
        reader.head.load_state_dict(load_file(folder / "head.safetensors"))
        return reader.eval()


def train_speech(config: SpeechBackboneConfig, seed: int, run_folder: Path) -> dict[str, float]:
    """Train a `SpeechReader` on the train voices; keep the checkpoint with the lowest word error
    rate on the val voices.
    """

    def evaluate(reader: SpeechReader, data: ExampleBatches) -> dict[str, float]:
        errors = reader.scores(data)["word error rate"]
        return {"val.word_error_rate": errors, "score": -errors}

    make_model = partial(SpeechReader.new, config)
    return train_on_scenes(make_model, speak_scenes, config, evaluate, seed, run_folder)


def mask_bands(mels: torch.Tensor, num_masks: int = 2, max_width: int = 6) -> torch.Tensor:
    """(B, MELS, frames) with random mel bands set to 0 (SpecAugment, arXiv 1904.08779)."""
    bands = torch.arange(mels.shape[1], device=mels.device)
    for _ in range(num_masks):
        width, start = (torch.rand(2, len(mels), 1, device=mels.device)).unbind()
        width = width * (max_width + 1)
        start = start * (mels.shape[1] - width)
        mels = mels.masked_fill(((bands >= start) & (bands < start + width - 1))[..., None], 0)
    return mels


def _without_repeats(labels: torch.Tensor) -> list[int]:
    return [label for label, _ in groupby(labels.tolist())]
