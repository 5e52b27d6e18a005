"""Training and publishing of the tiny backbones."""

import pytest

from edge_lib.config import LanguageBackboneConfig, SpeechBackboneConfig, VisionBackboneConfig
from edge_lib.experiments.backbones.language import train_language
from edge_lib.experiments.backbones.speech import train_speech
from edge_lib.experiments.backbones.training import publish
from edge_lib.experiments.backbones.vision import train_vision


@pytest.mark.parametrize(
    ("train", "config"),
    [
        (train_vision, VisionBackboneConfig()),
        (train_speech, SpeechBackboneConfig()),
        (train_language, LanguageBackboneConfig()),
    ],
    ids=["vision", "speech", "language"],
)
def test_training_rejects_several_processes(train, config, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"set launch\.num_processes=1"):
        train(config, 0, tmp_path)


def test_publish_copies_the_checkpoint_and_writes_a_card_with_scores(tmp_path):
    checkpoint, output = tmp_path / "checkpoint", tmp_path / "output"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    assert publish(checkpoint, output, "# tiny\n{scores}\n", {"digit": 0.97651}) == output
    assert (output / "model.safetensors").read_bytes() == b"weights"
    assert (output / "README.md").read_text() == "# tiny\n| digit | 0.9765 |\n"
