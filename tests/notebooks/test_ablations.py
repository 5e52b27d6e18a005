"""04, 05, 07, 11 and 12 executed by papermill, on grids of two points and a table of a few rows."""

import json
from math import nan

import pandas as pd
import pytest
import yaml
from notebook_outputs import figure_alts, printed_text
from notebook_runs import run_notebook, write_startup
from PIL import Image
from untrained_aligner import save_untrained_aligner

from edge_lib.config import ROOT, load_config
from edge_lib.features.extract import write_features
from edge_lib.runs import Run
from edge_lib.runs.points import make_points

SMALL = (
    "data.scenes.train_size=64 data.scenes.val_size=16 data.scenes.test_size=40 "
    "data.scenes.swap_size=4 vision.width=16 text.width=16 train.batch_size=16 "
    "features.num_processes=1 "
)
TWO_LENGTHS = """
from edge_lib.bench import perceiver

perceiver.perceiver.__defaults__ = ((64, 512),)
for name in ("mean", "attention", "perceiver_64x2"):
    del perceiver.SETTINGS[name]
"""


def execute(name, folder, config, overrides=""):
    notebook = run_notebook(name, folder, overrides, config=str(config))
    return json.loads((folder / "run" / "metrics.json").read_text()), notebook


def execute_sweep(name, folder, config, overrides):
    """Execute an ablation whose features are stored before: no process is launched for them."""
    loaded = load_config(config, overrides)
    write_features(loaded.data, loaded.feature_spec)
    return execute(name, folder, config, overrides)


def write_config(folder, base, grids, **sections):
    """A config that extends `base`, with other grids and a folder of its own for the points."""
    inherited = yaml.safe_load((ROOT / base).read_text())["sweep"]["grids"]
    grids = dict.fromkeys(inherited) | grids
    sweep = {"grids": grids, "seeds": [0], "folder": str(folder / "points")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"extends": str(ROOT / base), "sweep": sweep, **sections}))
    return path


def figures(folder):
    return {path.stem for path in (folder / "run" / "figures").glob("*.png")}


def assert_figures_have_alt_text(notebook, count):
    alts = figure_alts(notebook)
    assert len(alts) == count
    assert all(len(alt) > 40 for alt in alts)


@pytest.fixture
def two_lengths(tmp_path, monkeypatch):
    """Kernels whose benchmark compares two poolers at two lengths, instead of five at six."""
    monkeypatch.setenv("IPYTHONDIR", str(write_startup(tmp_path, TWO_LENGTHS)))


def test_mrl_ablation_reports_what_two_points_measured(tmp_path, tiny_vision):
    grids = {"matryoshka": {}, "full size": {"loss.dims": [[16]]}}
    sections = {"loss": {"dims": [16, 8], "weights": None}, "evaluate": {"dims": [16, 8]}}
    path = write_config(tmp_path, "params/tiny/mrl_ablation.yaml", grids, **sections)
    folders = f"vision.encoder={tiny_vision} data.cache_dir={tmp_path}/cache train.epochs=12"
    metrics, notebook = execute_sweep("04_mrl_ablation", tmp_path, path, f"{SMALL} {folders}")
    assert (metrics["points.done"], metrics["points.failed"]) == (2, 0)
    table = pd.read_csv(tmp_path / "run" / "sweep.csv").set_index(["grid", "metric"])["value"]
    # every variant has the mean of both directions of the point it came from
    for variant, grid, dim in (
        ("Matryoshka", "matryoshka", 8),
        ("plain, truncated", "full size", 8),
        ("a model for each size", "full size", 16),
    ):
        directions = (f"test.{way}.r1.dim{dim}" for way in ("vision_to_text", "text_to_vision"))
        expected = sum(table[grid, direction] for direction in directions) / 2
        assert metrics[f"mrl.{variant}.r1.dim{dim}"] == pytest.approx(expected)
    # a rotation changes no cosine, and centring changes few
    gap = metrics["mrl.plain, PCA.r1.dim16"] - metrics["mrl.plain, truncated.r1.dim16"]
    assert abs(gap) < 0.2
    assert {"recall_by_dim", "weights", "confusions"} <= figures(tmp_path)
    assert "2 of 2 points" in printed_text(notebook)
    assert_figures_have_alt_text(notebook, 3)


def test_perceiver_ablation_reports_recall_and_cost_of_two_points(
    tmp_path, tiny_vision, tiny_audio, two_lengths
):
    grids = {"plain": {"vision.pooler": ["mean"]}, "latents": {"vision.pooler": ["perceiver"]}}
    path = write_config(tmp_path, "params/tiny/perceiver_ablation.yaml", grids)
    folders = f"vision.encoder={tiny_vision} audio.encoder={tiny_audio} audio.width=16 "
    folders += f"data.cache_dir={tmp_path}/cache data.scenes.degraded_size=0 train.max_steps=4"
    metrics, notebook = execute_sweep("05_perceiver_ablation", tmp_path, path, f"{SMALL} {folders}")
    assert (metrics["points.done"], metrics["points.failed"]) == (2, 0)
    assert {"vision.mean.r1", "audio.perceiver 4x1.r1"} <= metrics.keys()
    costs = pd.read_csv(tmp_path / "run/figures/costs.csv").set_index(["modality", "variant"])
    assert costs["tokens out"].to_dict() == {
        ("vision", "mean"): 1,
        ("audio", "mean"): 1,
        ("vision", "perceiver 4x1"): 4,
        ("audio", "perceiver 4x1"): 4,
    }
    # the cost of self-attention grows with the square of the length, a Perceiver's linearly
    assert metrics["cost.self_attention.ratio.t512"] > metrics["cost.self_attention.ratio.t64"]
    assert figures(tmp_path) >= {"recall", "cost_curves"}
    assert_figures_have_alt_text(notebook, 2)


def test_layers_report_agreement_and_recall_of_three_pairs(tmp_path, tiny_vision):
    overrides = f"{SMALL} vision.encoder={tiny_vision} data.cache_dir={tmp_path}/cache compare.k=3 "
    overrides += "loss.dims=[16] train.max_steps=8 data.scenes.val_size=40 "
    overrides += "compare.candidates.vision.layers=[0,1,2] compare.candidates.text.layers=[1]"
    metrics, notebook = execute("11_layers", tmp_path, "params/tiny/layers.yaml", overrides)
    folder = tmp_path / "run/figures"
    agreement, ranking = (pd.read_csv(folder / f"{name}.csv") for name in ("agreement", "ranking"))
    assert len(agreement) == (3 + 1) * (1 + 1)
    assert set(agreement.rows) == {10}, "one of each four twins"
    assert ranking[["layer_a", "layer_b"]].to_numpy().tolist() == [[0, 1], [1, 1], [2, 1]]
    expected = ranking[["knn", "recall"]].corr("spearman").loc["knn", "recall"]
    assert metrics.get("layers.spearman.knn", nan) == pytest.approx(expected, nan_ok=True)
    assert metrics["layers.chosen.r1"] == ranking.loc[ranking.knn.idxmax()].recall
    assert metrics["layers.best.r1"] == ranking.recall.max()
    assert_figures_have_alt_text(notebook, 2)


def test_practice_tests_what_is_best_on_val_against_the_base(tmp_path, tiny_vision):
    grids = {
        "base": {},
        "learning rate": {"train.lr": [1e-6, 1e-2]},
        "three captions": {"data.captions_per_row": [3]},
    }
    path = write_config(tmp_path, "params/tiny/practice.yaml", grids)
    overrides = f"{SMALL} vision.encoder={tiny_vision} data.cache_dir={tmp_path}/cache "
    overrides += "sweep.seeds=[0,1] train.batch_size=15 train.max_steps=12 loss.dims=[16] "
    overrides += "evaluate.dims=[16] train.eval_every=6 train.log_every=4"
    metrics, notebook = execute_sweep("12_practice", tmp_path, path, overrides)
    assert (metrics["points.done"], metrics["points.failed"]) == (8, 0)
    recall, val = {}, {}
    for point in make_points(path, overrides):
        key, history = (point.grid, point.config.train.lr), Run(point.folder).history()
        both = [
            f"{split}_to_{other}.r1" for split, other in (("vision", "text"), ("text", "vision"))
        ]
        val.setdefault(key, []).append(history[[f"val.{way}" for way in both]].mean(axis=1).max())
        recall.setdefault(key, []).append(sum(point.metrics()[f"test.{way}"] for way in both) / 2)
    rates = {rate: sum(val["learning rate", rate]) for rate in (1e-6, 1e-2)}
    best = {"learning rate": max(rates, key=rates.get), "three captions": 1e-3}
    for grid, rate in best.items():
        gains = [b - a for a, b in zip(recall["base", 1e-3], recall[grid, rate], strict=True)]
        assert metrics[f"practice.{grid}.r1"] == pytest.approx(sum(recall[grid, rate]) / 2)
        assert metrics[f"practice.{grid}.gain"] == pytest.approx(100 * sum(gains) / 2, abs=1e-9)
    summary = pd.read_csv(tmp_path / "run/summary.csv", index_col="grid")
    assert summary.index.tolist() == ["base", "learning rate", "three captions"]
    assert summary.setting["learning rate"] == f"train.lr={best['learning rate']}"
    assert figures(tmp_path) == {"recall"}
    assert_figures_have_alt_text(notebook, 1)


def test_practice_grids_train_on_the_same_scenes_for_as_many_steps():
    base, *others = (point.config for point in make_points("params/tiny/practice.yaml"))
    for config in others:
        assert (config.train.max_steps, config.data.scenes) == (300, base.data.scenes)


def write_contrasts(folder):
    """A file of two examples in SugarCrepe's form, and a picture."""
    Image.new("RGB", (64, 64), "red").save(folder / "red.png")
    example = {"filename": "red.png", "caption": "red", "negative_caption": "blue"}
    file = folder / "near.json"
    file.write_text(json.dumps({"0": example, "1": example}))
    return file


def test_evaluate_measures_an_aligner_from_its_folder(tmp_path, small_align):
    trained = tmp_path / "01_align-tiny-0a1b2c3d"
    overrides = f"aligner.config=null aligner.folder={trained}/checkpoints/best "
    overrides += f"data.cache_dir={tmp_path}/cache evaluate.tsne_rows=12 features.num_processes=1 "
    overrides += "data.scenes.test_size=24 data.scenes.val_size=60 "
    overrides += f"evaluate.contrasts.near.file={write_contrasts(tmp_path)} "
    overrides += f"evaluate.contrasts.near.images={tmp_path} "
    overrides += "evaluate.classes=[red,green,blue,orange,purple] evaluate.probe_split=val"
    config = load_config("params/tiny/evaluate.yaml", overrides)
    save_untrained_aligner(small_align(), config, ["test", "val"], trained / "checkpoints" / "best")
    (trained / "config.yaml").write_text("name: tiny")
    (trained / "metrics.json").write_text('{"test.vision_to_text.r1.dim16": 0.5}')
    metrics, notebook = execute("07_evaluate", tmp_path, "params/tiny/evaluate.yaml", overrides)
    # three captions an image: any of them is found at least as often as each on its own
    assert metrics["test.vision_to_text.r1"] >= metrics["strict.test.vision_to_text.r1"]
    assert metrics["strict.test.vision_to_text.r1"] <= 1 / 3 + 1e-9
    assert metrics["test.text_to_vision.r1"] == metrics["strict.test.text_to_vision.r1"]
    assert 0 < metrics["test.vision_to_text.map_at_r"] <= 1
    assert metrics["contrast.near.text"] in {0, 1}
    methods = "zero_shot", "linear_probe", "knn"
    assert all(0 <= metrics[f"{method}.vision.accuracy"] <= 1 for method in methods)
    assert 0 <= metrics["vision_text.gap"] <= 2
    names = {"recall_by_dim", "tsne", "similarity", "confusions", "compared_recall"}
    names.add("class_confusion")
    assert figures(tmp_path) >= names
    compared = pd.read_csv(tmp_path / "run/figures/compared_recall.csv")
    assert compared[["run", "recall"]].to_numpy().tolist() == [[trained.name, 0.5]]
    table = pd.read_csv(tmp_path / "run/figures/recall_by_dim.csv")
    assert set(table.query("query == 'vision'").rows) == {72}
    assert_figures_have_alt_text(notebook, 6)
