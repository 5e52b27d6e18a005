"""trm_study, executed by papermill: a point of each grid, trained for some seconds."""

import json

import pandas as pd
import pytest
import yaml
from notebook_runs import run_notebook

from edge_lib.config import ROOT

SMALL = (
    "data.questions.train_scenes=96 data.questions.val_scenes=10 data.questions.test_scenes=30 "
    "qa.train.max_steps=20 qa.train.batch_size=32 qa.train.eval_every=20 evaluate.bootstrap=100 "
    "qa.plain.width=16 qa.trm.width=16 qa.plain.heads=2 qa.trm.heads=2 qa.curriculum=null "
)
ALIGNER = (
    "data.scenes.train_size=128 data.scenes.val_size=16 data.scenes.test_size=16 "
    "data.scenes.swap_size=2 train.batch_size=32 train.epochs=1 evaluate.tsne_rows=16 "
    "evaluate.tsne_perplexity=5"
)
ARMS = {
    "recursive": "trm",
    "loop without z": "loop",
    "plain, same parameters": "plain_parameters",
    "plain, same FLOPs": "plain_flops",
}
FEWER = {
    "recursive": {"qa.test_steps": [[1, 4]]},
    "few scenes": {"qa.use_trm": [True], "qa.scenes": [48]},
    "depth": {"qa.trm.inner_steps": [2, 3]},
    "two rounds": {"qa.trm.deep_supervision": [True]},
    "no image": {"qa.use_trm": [False]},
    "width": {"qa.trm.width": [32]},
    "plain width": {"qa.plain.width": [32]},
}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    base = ROOT / "params/tiny/trm_study.yaml"
    sweep = {"grids": FEWER, "seeds": [0], "folder": str(folder / "points")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"extends": str(base), "sweep": sweep}))
    cache = f"data.cache_dir={folder / 'cache'}"
    overrides = f"{SMALL} {cache} 'aligner.overrides={ALIGNER} {cache}'"
    run_notebook("trm_study", folder, overrides, config=str(path))
    return folder / "run"


def test_every_arm_and_its_difference_is_what_the_points_measured(executed):
    metrics = json.loads((executed / "metrics.json").read_text())
    assert metrics["points.done"] == 11
    table = pd.read_csv(executed / "points.csv").set_index("grid")
    for arm, name in ARMS.items():
        for kind in ("basic", "chained", "sum"):
            assert metrics[f"qa.{name}.em.{kind}"] == pytest.approx(table.loc[arm, f"em.{kind}"])
        if arm != "recursive":
            gap = table.loc["recursive", "em.basic"] - table.loc[arm, "em.basic"]
            assert metrics[f"difference.{name}.basic"] == pytest.approx(gap)
    cores, flops = table["parameters.core"], table["flops"]
    assert cores["recursive"] == pytest.approx(cores["plain, same parameters"], rel=0.02)
    assert flops["recursive"] == pytest.approx(flops["plain, same FLOPs"], rel=0.15)


def test_figures_and_their_numbers_are_there(executed):
    tables = {path.stem: pd.read_csv(path) for path in (executed / "figures").glob("*.csv")}
    for name in ("four", "pareto", "steps", "chains", "scenes", "width", "rounds"):
        assert (executed / f"figures/{name}.png").stat().st_size > 5000
        assert len(tables[name])
    steps = tables["steps"].query("questions == 'six basic kinds'")
    assert steps.groupby("arm").steps.apply(list).to_dict() == {
        "trained with 4": [1, 4],
        "trained with as many": [2, 3, 4],
    }
    assert set(tables["paired"]["set"]) == {"basic", "chained"}
