"""Frozen encoders: any transformers vision model, any sentence-transformers text model, and for
audio the encoder of any Whisper, or an Audio Spectrogram Transformer.

Each gives `Encoded(tokens, mask, pooled)`. `pretrained.py` says where the weights come from;
`weights: random` builds the named architecture with random ones and, for the models of
`assets/architectures`, without a hub.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    logging,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from edge_lib import pretrained
from edge_lib.config import ConfigError, ModalityConfig
from edge_lib.data.speech import RATE
from edge_lib.encoded import Encoded
from edge_lib.pretrained import check_minilm, locate

logging.disable_progress_bar()


class Encoder(nn.Module):
    """A frozen backbone. `prepare` runs on the CPU, `forward` where the weights are."""

    def __init__(self, config: ModalityConfig):
        super().__init__()
        self.source, self.revision = locate(config.encoder, config.weights), config.revision
        self.random = config.weights == "random"

    def cuts(self, item) -> bool:
        """Whether `prepare` leaves out a part of this item, because it is too long."""
        return False

    def freeze(self) -> None:
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """Stay in evaluation mode: a frozen encoder has no dropout, whatever it is part of."""
        return super().train(False)


class VisionEncoder(Encoder):
    """CLIP, SigLIP, ConvNeXt, ResNet, DINOv2, ...: whatever `AutoModel` makes of a vision config.

    A checkpoint with two towers (CLIP) gives its vision tower. Feature maps (B, C, H, W) become
    tokens (B, H*W, C).
    """

    def __init__(self, config: ModalityConfig):
        super().__init__(config)
        # PIL everywhere: torchvision's resize differs slightly, and features are kept for long
        self.processor = AutoImageProcessor.from_pretrained(
            self.source, revision=self.revision, backend="pil"
        )
        architecture = AutoConfig.from_pretrained(self.source, revision=self.revision)
        architecture = getattr(architecture, "vision_config", architecture)
        if self.random:
            self.model = _random_model(architecture)
        else:
            self.model = AutoModel.from_pretrained(
                self.source, revision=self.revision, config=architecture, dtype=torch.float32
            )
        self.freeze()

    def prepare(self, images: Sequence) -> dict[str, torch.Tensor]:
        """RGB images -> {pixel_values (B, 3, H, W)}."""
        return {"pixel_values": self.processor(list(images), return_tensors="pt").pixel_values}

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> Encoded:
        """(B, 3, H, W) -> tokens (B, T, D), pooled (B, P)."""
        output = self.model(pixel_values=pixel_values)
        tokens = output.last_hidden_state
        if tokens.ndim == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        pooled = getattr(output, "pooler_output", None)
        pooled = tokens.mean(1) if pooled is None else pooled.flatten(1)
        return Encoded(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool), pooled)


class TextEncoder(Encoder):
    """Any sentence-transformers model: its token embeddings and its sentence embedding."""

    def __init__(self, config: ModalityConfig):
        super().__init__(config)
        from sentence_transformers import SentenceTransformer

        if self.source == pretrained.MINILM and not self.random:
            check_minilm()
        if self.random:
            self.model = _random_sentence_transformer(self.source, self.revision)
        else:
            self.model = SentenceTransformer(str(self.source), revision=self.revision, device="cpu")
        self.freeze()

    def prepare(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Texts -> padded token ids and attention mask (B, T)."""
        features = self.model.preprocess(list(texts))
        return {name: value for name, value in features.items() if torch.is_tensor(value)}

    @torch.no_grad()
    def forward(self, **features: torch.Tensor) -> Encoded:
        """Token ids (B, T) -> tokens (B, T, D), their mask, and the sentence embedding (B, P)."""
        output = self.model({**features, "modality": "text"})
        return Encoded(
            output["token_embeddings"],
            output["attention_mask"].bool(),
            output["sentence_embedding"],
        )


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

    def cuts(self, item: np.ndarray) -> bool:
        return len(item) > self.window

    def prepare(self, clips: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """Mono clips (n,) at 16 kHz -> log-mel features; Whisper's with their mask (B, frames)."""
        clips = [np.asarray(clip[: self.window], np.float32) for clip in clips]
        mask = {"return_attention_mask": True} if self.whisper else {}
        return dict(self.processor(clips, sampling_rate=RATE, return_tensors="pt", **mask))

    @torch.no_grad()
    def forward(self, attention_mask: torch.Tensor | None = None, **features) -> Encoded:
        """Features (B, ...) -> tokens (B, T, D), their mask, and pooled (B, D)."""
        output = self.model(**features)
        tokens = output.last_hidden_state
        if not self.whisper:
            mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
            return Encoded(tokens, mask, output.pooler_output)
        mask = attention_mask[:, ::2].bool()  # its second convolution has stride 2
        tokens = tokens.masked_fill(~mask[..., None], 0)
        return Encoded(tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))


ENCODERS = {"vision": VisionEncoder, "audio": AudioEncoder, "text": TextEncoder}


def load_encoder(modality: str, config: ModalityConfig) -> Encoder:
    return ENCODERS[modality](config)


def _random_model(architecture, kind=AutoModel) -> nn.Module:
    """The same random weights each time, so that their features may be kept."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(kind, "from_config", kind)(architecture)


def _random_sentence_transformer(source: Path | str, revision: str | None):
    """A random transformer with mean pooling; its token ids come from MiniLM's tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with tempfile.TemporaryDirectory() as folder:
        _random_model(AutoConfig.from_pretrained(source, revision=revision)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(pretrained.MINILM).save_pretrained(folder)
        transformer = Transformer(folder)
        pooling = Pooling(transformer.get_embedding_dimension())
        return SentenceTransformer(modules=[transformer, pooling], device="cpu")
