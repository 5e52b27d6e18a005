"""A small aligner of three modalities and its exported folder."""

import pytest
import torch

from edge_lib import __main__ as command_line
from edge_lib.config import ModalityConfig
from edge_lib.models import Aligner


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
    return Aligner(modalities, [16, 8], dict.fromkeys(modalities, (16, 16))).eval()


@pytest.fixture(scope="session")
def exported(aligner, tmp_path_factory):
    """The folder that the command writes for the aligner's run."""
    base = tmp_path_factory.mktemp("export")
    aligner.save_pretrained(base / "run/checkpoints/best")
    arguments = ["export", str(base / "run"), "--out", str(base / "out"), "--int8"]
    assert command_line.main(arguments) == 0
    return base / "out"
