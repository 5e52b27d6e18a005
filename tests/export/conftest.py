"""A small aligner of three modalities and its exported folder."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

from edge_lib import __main__ as command_line
from edge_lib.config import ModalityConfig
from edge_lib.features.weights import MINILM
from edge_lib.models import Aligner

WIDTH = 16


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory):
    """A folder with a random two-layer BERT with MiniLM's tokenizer, at most 60 tokens."""
    folder = tmp_path_factory.mktemp("text")
    shape = {"hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2}
    torch.manual_seed(0)
    BertModel(BertConfig(**shape, num_hidden_layers=2)).save_pretrained(folder / "bert")
    AutoTokenizer.from_pretrained(MINILM).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=60)
    model = SentenceTransformer(modules=[transformer, Pooling(WIDTH)], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def aligner(tiny_vision, tiny_audio, tiny_text):
    encoders = {
        "vision": (tiny_vision, "attention"),
        "audio": (tiny_audio, "perceiver"),
        "text": (tiny_text, "tokens"),
    }
    modalities = {
        name: ModalityConfig(encoder=str(folder), pooler=pooler, width=16)
        for name, (folder, pooler) in encoders.items()
    }
    torch.manual_seed(0)
    return Aligner(modalities, [16, 8], dict.fromkeys(modalities, (WIDTH, WIDTH))).eval()


@pytest.fixture(scope="session")
def exported(aligner, tmp_path_factory):
    """The folder that the command writes for the aligner's run."""
    base = tmp_path_factory.mktemp("export")
    aligner.save_pretrained(base / "run/checkpoints/best")
    arguments = ["export", str(base / "run"), "--out", str(base / "out"), "--int8"]
    assert command_line.main(arguments) == 0
    return base / "out"
