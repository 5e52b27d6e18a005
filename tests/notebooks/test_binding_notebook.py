"""10 executed by papermill, on two points of the grid and a table of a few rows."""

import json

import pandas as pd
import pytest
import yaml
from notebook_outputs import figure_alts
from notebook_runs import run_notebook

from edge_lib.config import ROOT, load_config
from edge_lib.features.extract import write_features
from edge_lib.runs.points import make_points

BASE = ROOT / "params/tiny/binding.yaml"
SMALL = (
    "data.scenes.train_size=60 data.scenes.val_size=16 data.scenes.test_size=24 "
    "data.scenes.swap_size=6 vision.width=16 text.width=16 train.batch_size=20 train.max_steps=8 "
    "train.eval_every=4 train.checkpoint_every=4 train.log_every=2 loss.dims=[16,8] "
    "features.num_processes=1 "
)


@pytest.fixture
def executed(tmp_path, tiny_vision):
    """The run folder and the notebook, of a pooled point and one with a vector for each token."""
    grids = yaml.safe_load(BASE.read_text())["sweep"]["grids"]
    changed = dict.fromkeys(grids) | {name: grids[name] for name in ("pooled", "maxsim")}
    changed["pooled"] |= {"text.width": [16], "loss.dims": [[16, 8]]}
    sweep = {"grids": changed, "seeds": [0], "folder": str(tmp_path / "points")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"extends": str(BASE), "sweep": sweep}))
    overrides = f"{SMALL} vision.encoder={tiny_vision} data.cache_dir={tmp_path}/cache"
    for point in make_points(path, overrides):
        write_features(point.config.data, point.config.feature_spec)
    notebook = run_notebook("10_binding", tmp_path, overrides, config=str(path))
    return tmp_path / "run", notebook


def test_binding_reports_what_its_points_measured(executed):
    run, notebook = executed
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["points.done"], metrics["points.failed"]) == (2, 0)
    table = pd.read_csv(run / "sweep.csv").set_index(["grid", "metric"]).value
    for grid in ("pooled", "maxsim"):
        assert metrics[f"binding.{grid}.swap.group"] == table[grid, "swap.group.dim16"]
        recall = table[grid, "test.text_to_vision.r1"]
        assert metrics[f"binding.{grid}.text_to_vision.r1"] == recall
    # all tokens of the best checkpoint score as its point did
    assert metrics["binding.tokens.1.swap.group"] == table["maxsim", "swap.group.dim16"]
    assert metrics["binding.tokens.1.r1"] == table["maxsim", "test.text_to_vision.r1"]
    costs = pd.read_csv(run / "figures" / "costs.csv").set_index("factor")
    assert costs.bytes.is_monotonic_decreasing
    assert (costs.found > 0.99).all(), "the shortlist is longer than the table"
    assert {path.stem for path in (run / "figures").glob("*.png")} == {
        "pairs",
        "swap",
        "recall",
        "failures",
    }
    assert all(len(alt) > 40 for alt in figure_alts(notebook))


def test_binding_grids_differ_in_what_their_names_say():
    points = {point.grid: point.config for point in make_points(BASE)}
    heads = {name: {m.head for m in config.modalities.values()} for name, config in points.items()}
    assert heads.pop("pooled") == {"pooled"}
    assert all(head == {"maxsim"} for head in heads.values())
    layers = {name: points[name].text.num_layers for name in ("maxsim", "two_layers")}
    assert layers == {"maxsim": 1, "two_layers": 2}
    assert points["projections"].text.pooler == "tokens"
    assert not points["without_twins"].data.hard_negatives
    assert points["with_swaps"].data.scenes.swap_twins
    assert load_config(BASE).data.scenes.swap_twins is False
