"""04, 05 and 07 executed by papermill, on grids of two points and a table of a few rows."""

import json

import pandas as pd
import pytest
import yaml
from notebook_runs import run_notebook

from edge_lib.config import ROOT
from edge_lib.experiments.align import train_aligner
from edge_lib.features.extract import extract_features
from edge_lib.runs import Run
from edge_lib.training.launch import launch

FEW = "data.scenes.train_size=64 data.scenes.val_size=16 data.scenes.test_size=40 "
FEW += "data.scenes.swap_size=4 vision.width=16 text.width=16 train.batch_size=16 "
FEW += "features.num_processes=1 evaluate.tsne_rows=20 "


def execute(name, folder, config, overrides=""):
    notebook = run_notebook(name, folder, overrides, config=str(config))
    return json.loads((folder / "run" / "metrics.json").read_text()), notebook


def config_file(folder, base, grids, **sections):
    """A config that extends `base`, with other grids and a folder of its own for the points."""
    inherited = yaml.safe_load((ROOT / base).read_text())["sweep"]["grids"]
    grids = dict.fromkeys(inherited) | grids
    sweep = {"grids": grids, "seeds": [0], "folder": str(folder / "points")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"extends": str(ROOT / base), "sweep": sweep, **sections}))
    return path


def figures(folder):
    return {path.stem for path in (folder / "run" / "figures").glob("*.png")}


def test_mrl_ablation_on_two_points(tmp_path, tiny_vision):
    grids = {"matryoshka": {}, "one size": {"loss.dims": [[16]]}}
    sections = {"loss": {"dims": [16, 8], "weights": None}, "evaluate": {"dims": [16, 8]}}
    path = config_file(tmp_path, "params/tiny/mrl_ablation.yaml", grids, **sections)
    where = f"vision.encoder={tiny_vision} data.cache_dir={tmp_path}/cache train.epochs=2"
    metrics, notebook = execute("04_mrl_ablation", tmp_path, path, f"{FEW} {where}")
    assert (metrics["points.done"], metrics["points.failed"]) == (2, 0)
    table = pd.read_csv(tmp_path / "run" / "sweep.csv").set_index(["grid", "metric"])["value"]
    # every arm is what the point that it came from measured, both ways averaged
    for arm, grid, dim in (
        ("Matryoshka", "matryoshka", 8),
        ("plain, truncated", "one size", 8),
        ("a model for each size", "one size", 16),
    ):
        ways = (f"test.{way}.r1.dim{dim}" for way in ("vision_to_text", "text_to_vision"))
        expected = sum(table[grid, way] for way in ways) / 2
        assert metrics[f"mrl.{arm}.r1.dim{dim}"] == pytest.approx(expected)
    # a rotation changes no cosine, and centring few
    gap = metrics["mrl.plain, PCA.r1.dim16"] - metrics["mrl.plain, truncated.r1.dim16"]
    assert abs(gap) < 0.2
    assert {"recall_by_dim", "weights", "confusions"} <= figures(tmp_path)
    assert "2 of 2 points" in str(notebook)


def test_perceiver_ablation_on_two_points(tmp_path, tiny_vision, tiny_audio):
    grids = {"plain": {"vision.pooler": ["mean"]}, "latents": {"vision.pooler": ["perceiver"]}}
    path = config_file(tmp_path, "params/tiny/perceiver_ablation.yaml", grids)
    where = f"vision.encoder={tiny_vision} audio.encoder={tiny_audio} audio.width=16 "
    where += f"data.cache_dir={tmp_path}/cache data.scenes.degraded_size=0 train.max_steps=4"
    metrics, _ = execute("05_perceiver_ablation", tmp_path, path, f"{FEW} {where}")
    assert (metrics["points.done"], metrics["points.failed"]) == (2, 0)
    assert {"vision.mean.r1", "audio.perceiver 4x1.r1"} <= metrics.keys()
    costs = pd.read_csv(tmp_path / "run/figures/costs.csv").set_index(["modality", "arm"])
    assert costs["tokens out"].to_dict() == {
        ("vision", "mean"): 1,
        ("audio", "mean"): 1,
        ("vision", "perceiver 4x1"): 4,
        ("audio", "perceiver 4x1"): 4,
    }
    # self-attention's cost grows with the square of the tokens, a Perceiver's in step with them
    assert metrics["cost.self_attention.ratio.t1536"] > metrics["cost.self_attention.ratio.t64"]
    assert figures(tmp_path) >= {"recall", "cost_curves"}


def test_evaluate_an_aligner_from_its_folder(tmp_path, small_align):
    config = small_align()
    launch(extract_features, config)
    launch(train_aligner, config, Run.create(config, "01_align", tmp_path / "aligner").folder)
    best = tmp_path / "aligner" / "checkpoints" / "best"
    overrides = f"aligner.config=null aligner.folder={best} data.scenes.test_size=24 "
    overrides += f"data.cache_dir={tmp_path}/cache evaluate.tsne_rows=12 features.num_processes=1"
    metrics, _ = execute("07_evaluate", tmp_path, "params/tiny/evaluate.yaml", overrides)
    # three captions an image: any one of them is found at least as often as each on its own
    assert metrics["test.vision_to_text.r1"] >= metrics["strict.test.vision_to_text.r1"]
    assert metrics["strict.test.vision_to_text.r1"] <= 1 / 3 + 1e-9
    assert metrics["test.text_to_vision.r1"] == metrics["strict.test.text_to_vision.r1"]
    assert 0 <= metrics["vision_text.gap"] <= 2
    assert figures(tmp_path) >= {"recall_by_dim", "tsne", "similarity", "confusions"}
    table = pd.read_csv(tmp_path / "run/figures/recall_by_dim.csv")
    assert set(table.query("query == 'vision'").rows) == {72}
