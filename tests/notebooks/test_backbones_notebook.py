"""00_backbones, executed by papermill on a config too small to learn much."""

import json

from notebook_runs import run_notebook

SMALL = (
    "backbones.vision.data.train_size=640 backbones.vision.data.val_size=64 "
    "backbones.vision.data.test_size=200 backbones.vision.train.epochs=2 "
    "backbones.vision.train.log_every=2 backbones.vision.widths=[8,16,32] "
    "backbones.speech.data.train_size=256 backbones.speech.data.val_size=16 "
    "backbones.speech.data.test_size=16 backbones.speech.train.epochs=2 "
    "backbones.speech.train.log_every=2 backbones.speech.width=32 backbones.speech.layers=1 "
    "backbones.language.data.train_scenes=64 backbones.language.data.val_scenes=8 "
    "backbones.language.data.test_scenes=8 backbones.language.train.max_steps=8 "
    "backbones.language.train.log_every=2 backbones.language.width=32 backbones.language.layers=1"
)

TRAINED = ("vision", "speech", "language")


def test_trains_and_publishes_only_what_passes_the_probe(tmp_path):
    outputs = " ".join(f"backbones.{x}.output={tmp_path}/{x}" for x in TRAINED)
    run_notebook("00_backbones", tmp_path, f"{SMALL} {outputs}")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["probe.size"] > 0.6  # a coin gives 0.5
    assert metrics["probe.digit"] < 0.97
    assert metrics["speech.word_error_rate"] > 0.3  # words put in may take it over 1
    assert metrics["speech.size"] > 0.45
    assert metrics["language.answers"] < 0.9
    assert not any((tmp_path / name).exists() for name in TRAINED)
    said = (tmp_path / "out.ipynb").read_text()
    assert "vision not published: the probe stays below 0.97" in said
    assert "speech not published: its word error rate is not below 0.05" in said
    assert "language not published: fewer than 90% of answers or of things are right" in said
    assert (tmp_path / "run/vision/checkpoints/best/model.safetensors").exists()
