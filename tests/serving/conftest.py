"""A small aligner of three modalities and its exported folder."""

import pytest
import torch

from edge_lib.config import ModalityConfig
from edge_lib.export.folder import export_model
from edge_lib.models import Aligner


@pytest.fixture(scope="session")
def aligner(tiny_vision, tiny_audio, tiny_text, tmp_path_factory):
    """Saved, so that it has a digest."""
    encoders = {"vision": tiny_vision, "audio": tiny_audio, "text": tiny_text}
    modalities = {
        name: ModalityConfig(
            encoder=str(folder), pooler="tokens" if name == "text" else "attention", width=16
        )
        for name, folder in encoders.items()
    }
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("aligner")
    Aligner(modalities, [16, 8], dict.fromkeys(modalities, (16, 16))).save_pretrained(folder)
    return Aligner.from_pretrained(folder)


@pytest.fixture(scope="session")
def exported(aligner, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_model(aligner, folder)
    return folder
