"""Audio encoders: the encoder of any Whisper, or an Audio Spectrogram Transformer."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, logging
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from edge_lib.config import ConfigError, EncoderConfig
from edge_lib.data.audio import RATE
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.encoder import Encoder, hidden_states
from edge_lib.features.random_weights import random_model

logging.disable_progress_bar()


class _WhisperEncoder(WhisperEncoder):
    """Loads from a checkpoint of a whole Whisper and ignores its decoder."""

    _keys_to_ignore_on_load_unexpected = (r"(^|\.)decoder\.", r"^proj_out\.")


MODEL_CLASSES = {"whisper": _WhisperEncoder, "audio-spectrogram-transformer": AutoModel}


class AudioEncoder(Encoder):
    """Whisper's encoder (Radford et al. 2022, arXiv 2212.04356), or an Audio Spectrogram
    Transformer (Gong et al. 2021, arXiv 2104.01778).

    Both take a window of fixed length: longer clips are truncated, shorter ones padded with
    silence. Whisper's tokens on the padding are masked. AST mixes the whole window, so all its
    tokens are valid.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        architecture = AutoConfig.from_pretrained(self.source, revision=self.revision)
        if architecture.model_type not in MODEL_CLASSES:
            raise ConfigError(
                f"{config.encoder} is a {architecture.model_type}; audio encoders: "
                f"{', '.join(MODEL_CLASSES)}"
            )
        self.processor = AutoFeatureExtractor.from_pretrained(self.source, revision=self.revision)
        self.whisper = architecture.model_type == "whisper"
        frames = getattr(self.processor, "max_length", 0)  # of AST's window, 10 ms each
        self.window = self.processor.n_samples if self.whisper else frames * RATE // 100
        self.model = self._load(architecture, MODEL_CLASSES[architecture.model_type])
        self.freeze()

    def _load(self, architecture, model_class):
        if self.random:
            return random_model(architecture, model_class)
        # a whole Whisper has its encoder under one of these prefixes
        prefixes = {r"^(model\.)?encoder\.": ""} if self.whisper else None
        return model_class.from_pretrained(
            self.source, revision=self.revision, dtype=torch.float32, key_mapping=prefixes
        )

    @property
    def limit(self) -> str:
        return f"the {self.window / RATE:g} s that the model reads"

    def truncates(self, item: np.ndarray) -> bool:
        return len(item) > self.window

    def prepare(self, clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Mono clips (n,) at 16 kHz -> log-mel features; Whisper's with their mask (B, frames)."""
        clips = [np.asarray(clip[: self.window], np.float32) for clip in clips]
        mask = {"return_attention_mask": True} if self.whisper else {}
        return dict(self.processor(clips, sampling_rate=RATE, return_tensors="pt", **mask))

    def outputs(self, hidden: bool, attention_mask: torch.Tensor | None = None, **features):
        """Features (B, ...) -> tokens (B, T, D), their mask, pooled (B, D), and hidden states."""
        output = self.model(**features, **hidden_states(hidden))
        tokens = output.last_hidden_state
        if not self.whisper:
            mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
            grid = self.model.embeddings.get_shape(self.model.config)
            return EncoderOutput(tokens, mask, output.pooler_output, grid), output.hidden_states
        mask = attention_mask[:, ::2].bool()  # its second convolution has stride 2
        tokens = tokens.masked_fill(~mask[..., None], 0)
        pooled = tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return EncoderOutput(tokens, mask, pooled), output.hidden_states
