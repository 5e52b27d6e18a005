"""Audio encoders."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from edge_lib.config import ConfigError, ModalityConfig
from edge_lib.data.audio import RATE
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.encoder import Encoder, _random_model


class _WhisperEncoder(WhisperEncoder):
    """Loads from a whole Whisper, whose decoder is left where it is."""

    _keys_to_ignore_on_load_unexpected = (r"(^|\.)decoder\.", r"^proj_out\.")


class AudioEncoder(Encoder):
    """Whisper's encoder (Radford et al. 2022, arXiv 2212.04356), or an Audio Spectrogram
    Transformer (Gong et al. 2021, arXiv 2104.01778).

    Both take a window of fixed length: a longer clip is cut, a shorter one padded with silence.
    Whisper's tokens on the padding are masked. AST attends to its window whole, patches in time and
    frequency, so all its tokens count.
    """

    def __init__(self, config: ModalityConfig):
        super().__init__(config)
        architecture = AutoConfig.from_pretrained(self.source, revision=self.revision)
        kinds = {"whisper": _WhisperEncoder, "audio-spectrogram-transformer": AutoModel}
        if architecture.model_type not in kinds:
            raise ConfigError(
                f"{config.encoder} is a {architecture.model_type}; audio encoders: {list(kinds)}"
            )
        self.processor = AutoFeatureExtractor.from_pretrained(self.source, revision=self.revision)
        self.whisper = architecture.model_type == "whisper"
        frames = getattr(self.processor, "max_length", 0)  # AST counts its window in 10 ms
        self.window = self.processor.n_samples if self.whisper else frames * RATE // 100
        if self.random:
            self.model = _random_model(architecture, kinds[architecture.model_type])
        else:
            self.model = kinds[architecture.model_type].from_pretrained(
                self.source,
                revision=self.revision,
                dtype=torch.float32,
                # a whole Whisper keeps its encoder under one of these names
                key_mapping={r"^(model\.)?encoder\.": ""} if self.whisper else None,
            )
        self.freeze()

    def truncates(self, item: np.ndarray) -> bool:
        return len(item) > self.window

    def prepare(self, clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Mono clips (n,) at 16 kHz -> log-mel features; Whisper's with their mask (B, frames)."""
        clips = [np.asarray(clip[: self.window], np.float32) for clip in clips]
        mask = {"return_attention_mask": True} if self.whisper else {}
        return dict(self.processor(clips, sampling_rate=RATE, return_tensors="pt", **mask))

    @torch.no_grad()
    def forward(self, attention_mask: torch.Tensor | None = None, **features) -> EncoderOutput:
        """Features (B, ...) -> tokens (B, T, D), their mask, and pooled (B, D)."""
        output = self.model(**features)
        tokens = output.last_hidden_state
        if not self.whisper:
            mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
            return EncoderOutput(tokens, mask, output.pooler_output)
        mask = attention_mask[:, ::2].bool()  # its second convolution has stride 2
        tokens = tokens.masked_fill(~mask[..., None], 0)
        return EncoderOutput(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
