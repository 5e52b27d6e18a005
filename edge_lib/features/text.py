"""Text encoders: any sentence-transformers model."""

from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from transformers.utils import logging

from edge_lib.config import EncoderConfig
from edge_lib.data.encoder_output import EncoderOutput
from edge_lib.features import weights
from edge_lib.features.encoder import Encoder
from edge_lib.features.random_weights import random_sentence_transformer

logging.disable_progress_bar()
SPECIAL_TOKENS = 2  # that tokenizers add around a text


class TextEncoder(Encoder):
    """A sentence-transformers model: its token embeddings and its sentence embedding."""

    fixed_length = False

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        if self.source == weights.MINILM and not self.random:
            weights.check_minilm()
        if self.random:
            self.model = random_sentence_transformer(self.source, self.revision)
        else:
            self.model = SentenceTransformer(str(self.source), revision=self.revision, device="cpu")
        self.freeze()

    @property
    def limit(self) -> str:
        return f"the {self.model.max_seq_length} tokens that the model reads"

    def truncates(self, item: str) -> bool:
        """By the tokenizer, unless the text has too few bytes for that many tokens."""
        window = self.model.max_seq_length
        if window is None or len(item.encode()) + SPECIAL_TOKENS <= window:
            return False
        return len(self.model.tokenizer(item, truncation=False, verbose=False).input_ids) > window

    def prepare(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Texts -> padded token ids and attention mask (B, T)."""
        features = self.model.preprocess(list(texts))
        return {name: value for name, value in features.items() if torch.is_tensor(value)}

    def outputs(self, hidden: bool, **features: torch.Tensor):
        """Token ids (B, T) -> tokens (B, T, D), their mask, the sentence embedding (B, P), and
        hidden states.
        """
        if isinstance(self.model[0], Transformer):
            self.model[0].model.config.output_hidden_states = hidden
        output = self.model({**features, "modality": "text"})
        own = EncoderOutput(
            output["token_embeddings"],
            output["attention_mask"].bool(),
            output["sentence_embedding"],
        )
        return own, output.get("all_layer_embeddings", ())
