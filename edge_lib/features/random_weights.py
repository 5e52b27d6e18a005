"""Models of a known architecture with random weights, which are the same each time, so that their
features can be stored.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from edge_lib.features.weights import MINILM


def random_model(architecture, model_class=AutoModel) -> nn.Module:
    """An instance of `model_class` with random weights. architecture: a transformers config."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(model_class, "from_config", model_class)(architecture)


def random_sentence_transformer(source: Path | str, revision: str | None):
    """A transformer with mean pooling; its token ids come from MiniLM's tokenizer."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with tempfile.TemporaryDirectory() as folder:
        random_model(AutoConfig.from_pretrained(source, revision=revision)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder)
        transformer = Transformer(folder)
        pooling = Pooling(transformer.get_embedding_dimension())
        return SentenceTransformer(modules=[transformer, pooling], device="cpu")
