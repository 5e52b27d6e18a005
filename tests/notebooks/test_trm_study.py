"""trm_study, executed by papermill on its whole grid. Its points are done, their answers drawn at
random, and one rival's right more often.
"""

import json

import numpy as np
import pandas as pd
import pytest
from notebook_runs import run_notebook

from edge_lib.config import load_config
from edge_lib.experiments.trm_qa import kind_sets, qa_metrics
from edge_lib.metrics.answers import by_kind
from edge_lib.runs.points import make_points
from edge_lib.sources import load_table

CONFIG = "params/tiny/trm_study.yaml"
ARMS = {
    "recursive": ("trm", 0.6),
    "loop without z": ("loop", 0.6),
    "plain, same parameters": ("plain_parameters", 0.9),
    "plain, same FLOPs": ("plain_flops", 0.6),
}


def finish(point, test, number):
    """What a point leaves when it is done; of the test's questions a share is right."""
    (arm,) = point.config.qa.arms
    asked, rng = test.questions, np.random.default_rng([number, 1])
    em = (rng.random(len(asked.texts)) < ARMS.get(point.grid, ("", 0.5))[1]).astype(float)
    answers = {"row": asked.rows, "kind": asked.kinds, "answer": "x", "reference": "x"}
    answers = pd.DataFrame(answers | {"em": em, "f1": em})
    (point.folder / arm).mkdir(parents=True)
    answers.to_csv(point.folder / arm / "answers.csv", index=False)
    metrics = qa_metrics(by_kind(answers, test.groups, kind_sets(test)), arm)
    for steps in point.config.qa.test_steps:
        metrics |= {f"qa.{arm}.em.{kind}.steps{steps}": steps / 20 for kind in ("basic", "chained")}
    costs = ("parameters.core", "parameters", "layer_tokens", "flops", "seconds.train")
    costs = {f"{name}.{arm}": 100.0 + number for name in (*costs, "memory.peak_mb")}
    metrics |= costs | {"seconds.total": 200.0}
    (point.folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    overrides = f"data.cache_dir={folder / 'cache'} sweep.folder={folder / 'points'} "
    overrides += "data.questions.test_scenes=60 evaluate.bootstrap=200"
    test = load_table(load_config(CONFIG, overrides).data, "qa-test")
    points = make_points(CONFIG, overrides)
    found = {p.folder: finish(p, test, n) for n, p in enumerate(points)}
    run_notebook("trm_study", folder, overrides, config=CONFIG)
    return folder / "run", [(point, found[point.folder]) for point in points]


def test_every_arm_and_its_difference_is_what_the_points_measured(executed):
    run, points = executed
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["points.done"], metrics["points.failed"]) == (len(points), 0)
    means = {}
    for grid, (name, _) in ARMS.items():
        mine = [found for point, found in points if point.grid == grid]
        assert len(mine) == 3
        for kind in ("basic", "chained", "sum"):
            each = [next(v for k, v in m.items() if k.endswith(f".em.{kind}")) for m in mine]
            means[name, kind] = np.mean(each)
            assert metrics[f"qa.{name}.em.{kind}"] == pytest.approx(means[name, kind])
    for name in ("loop", "plain_parameters", "plain_flops"):
        gap = means["trm", "basic"] - means[name, "basic"]
        assert metrics[f"difference.{name}.basic"] == pytest.approx(gap)
    said = (run.parent / "out.ipynb").read_text()
    assert "basic: recursive below plain, same parameters" in said


def test_figures_show_every_setting_of_the_grid(executed):
    run, points = executed
    tables = {path.stem: pd.read_csv(path) for path in (run / "figures").glob("*.csv")}
    for name in ("four", "pareto", "steps", "chains", "scenes", "width", "rounds"):
        assert (run / f"figures/{name}.png").stat().st_size > 5000
    whole = {
        point.config.model_copy(update={"seed": 0}).digest()
        for point, _ in points
        if point.config.qa.scenes is None and point.config.qa.vision
    }
    assert len(tables["pareto"]) == len(whole)
    assert set(tables["pareto"].seeds) == {3}
    steps = tables["steps"].query("questions == 'six basic kinds'")
    assert steps.groupby("arm").steps.apply(list).to_dict() == {
        "trained with 4": list(range(1, 13)),
        "trained with as many": [2, 4, 6, 8],
    }
    alone = steps[steps.arm == "trained with 4"].set_index("steps")["mean"]
    np.testing.assert_allclose(alone, alone.index / 20)
    assert tables["scenes"].groupby("arm").scenes.apply(list).to_dict() == {
        "plain": [500, 2000, 8000],
        "recursive": [500, 2000, 8000],
    }
    wide = tables["width"].query("questions == 'chains'")
    assert wide.groupby("arm").width.apply(list).to_dict() == {
        "plain": [64, 128, 256],
        "recursive": [64, 128, 256],
    }
    assert set(tables["rounds"].arm) == {
        "one round",
        "two rounds",
        "two rounds, a loss each",
        "no image, plain",
        "no image, recursive",
    }
    assert set(tables["paired"]["set"]) == {"basic", "chained"}
