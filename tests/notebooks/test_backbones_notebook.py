"""00_backbones, executed by papermill on a config too small to learn much."""

import json

import papermill

from edge_lib.config import ROOT

SMALL = (
    "data.scenes.train_size=640 data.scenes.val_size=64 data.scenes.test_size=200 "
    "train.epochs=2 train.eval_every=10 train.log_every=2 backbone.widths=[8,16,32]"
)


def test_trains_and_publishes_only_what_passes_the_probe(tmp_path):
    output = tmp_path / "published"
    papermill.execute_notebook(
        ROOT / "notebooks/00_backbones.ipynb",
        tmp_path / "out.ipynb",
        {"overrides": f"{SMALL} backbone.output={output}", "run_dir": str(tmp_path / "run")},
        cwd=tmp_path,
        progress_bar=False,
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["probe.size"] > 0.6  # a coin gives 0.5
    assert metrics["probe.digit"] < 0.97
    assert not output.exists()
    assert "not published: the probe stays below 0.97" in (tmp_path / "out.ipynb").read_text()
    assert (tmp_path / "run" / "checkpoints" / "best" / "model.safetensors").exists()
