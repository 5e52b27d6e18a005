"""00_backbones, executed by papermill on a config too small to learn much."""

from notebook_runs import printed_text, read_metrics, run_notebook

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

BACKBONES = ("vision", "speech", "language")
PRELOAD = [f"edge_lib.experiments.backbones.{name}" for name in BACKBONES]


def test_backbones_are_trained_and_published_only_if_they_pass(tmp_path):
    outputs = " ".join(f"backbones.{name}.output={tmp_path}/{name}" for name in BACKBONES)
    notebook = run_notebook("00_backbones", tmp_path, f"{SMALL} {outputs}", PRELOAD)
    metrics = read_metrics(tmp_path / "run")
    assert metrics["probe.size"] > 0.6  # chance 0.5
    assert metrics["probe.digit"] < 0.97
    assert metrics["speech.word_error_rate"] > 0.3  # insertions may take it over 1
    assert metrics["speech.size"] > 0.45
    assert metrics["language.answers"] < 0.9
    assert not any((tmp_path / name).exists() for name in BACKBONES)
    text = printed_text(notebook)
    assert "vision not published** (needs 0.97" in text
    assert "speech not published** (needs less than 0.05)" in text
    assert "language not published** (needs 0.9" in text
    assert (tmp_path / "run/vision/checkpoints/best/model.safetensors").exists()
