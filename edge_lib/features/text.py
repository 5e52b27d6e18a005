"""Text encoders."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer

from edge_lib.config import ModalityConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features.encoder import Encoder, _random_model
from edge_lib.features.weights import MINILM, check_minilm


class TextEncoder(Encoder):
    """Any sentence-transformers model: its token embeddings and its sentence embedding."""

    def __init__(self, config: ModalityConfig):
        super().__init__(config)
        from sentence_transformers import SentenceTransformer

        if self.source == MINILM and not self.random:
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
    def forward(self, **features: torch.Tensor) -> EncoderOutput:
        """Token ids (B, T) -> tokens (B, T, D), their mask, and the sentence embedding (B, P)."""
        output = self.model({**features, "modality": "text"})
        return EncoderOutput(
            output["token_embeddings"],
            output["attention_mask"].bool(),
            output["sentence_embedding"],
        )


def _random_sentence_transformer(source: Path | str, revision: str | None):
    """A random transformer with mean pooling; its token ids come from MiniLM's tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with tempfile.TemporaryDirectory() as folder:
        _random_model(AutoConfig.from_pretrained(source, revision=revision)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
        transformer = Transformer(folder)
        pooling = Pooling(transformer.get_embedding_dimension())
        return SentenceTransformer(modules=[transformer, pooling], device="cpu")
