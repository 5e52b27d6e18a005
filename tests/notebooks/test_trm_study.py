"""trm_study, executed by papermill on its whole grid, whose points are done already: their answers
are random, and one rival is right more often.
"""

import json

import numpy as np
import pandas as pd
import pytest
from notebook_runs import read_metrics, run_notebook

from edge_lib.config import load_config
from edge_lib.experiments.trm_qa import qa_metrics
from edge_lib.metrics.answers import by_kind
from edge_lib.runs.points import make_points
from edge_lib.sources import kind_sets, load_table

CONFIG = "params/tiny/trm_study.yaml"
DECODERS = {  # grid -> its name in the metrics, and its share of right answers
    "recursive": ("trm", 0.6),
    "loop without z": ("loop", 0.6),
    "plain, same parameters": ("plain_parameters", 0.9),
    "plain, same FLOPs": ("plain_flops", 0.6),
}
# decoders that take milliseconds a step, which the notebook measures
NARROW = (
    "qa.trm.width=8 qa.plain.width=8 "
    "'sweep.grids.width={qa.use_trm: [true], qa.trm.width: [16, 32]}' "
    "'sweep.grids.plain width="
    "{qa.use_trm: [false], qa.plain.layers: [2], qa.plain.width: [16, 32]}'"
)


def write_results(point, test, sets, number):
    """Write the answers and metrics of a finished point; returns the metrics."""
    (decoder,) = point.config.qa.decoders
    questions, rng = test.questions, np.random.default_rng([number, 1])
    share = DECODERS.get(point.grid, ("", 0.5))[1]
    em = (rng.random(len(questions.texts)) < share).astype(float)
    answers = {"row": questions.rows, "kind": questions.kinds, "answer": "x", "reference": "x"}
    answers = pd.DataFrame(answers | {"em": em, "f1": em})
    (point.folder / decoder).mkdir(parents=True)
    answers.to_csv(point.folder / decoder / "answers.csv", index=False)
    metrics = qa_metrics(by_kind(answers, test.groups, sets), decoder)
    for steps in point.config.qa.test_steps:
        for kind in ("basic", "chained"):
            metrics[f"qa.{decoder}.em.{kind}.steps{steps}"] = steps / 20
    costs = ("parameters.core", "parameters", "layer_tokens", "flops", "seconds.train")
    costs = {f"{name}.{decoder}": 100.0 + number for name in (*costs, "memory.peak_mb")}
    metrics |= costs | {"seconds.total": 200.0}
    (point.folder / "metrics.json").write_text(json.dumps(metrics))
    return metrics


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The run folder, and each point of the grid with its metrics."""
    folder = tmp_path_factory.mktemp("study")
    overrides = f"data.cache_dir={folder / 'cache'} sweep.folder={folder / 'points'} "
    overrides += "data.questions.test_scenes=60 evaluate.bootstrap=200 "
    overrides += NARROW
    data = load_config(CONFIG, overrides).data
    test = load_table(data, "qa-test")
    sets = kind_sets(data, test.questions.kinds)
    points = make_points(CONFIG, overrides)
    metrics = {p.folder: write_results(p, test, sets, n) for n, p in enumerate(points)}
    run_notebook("trm_study", folder, overrides, config=CONFIG)
    return folder / "run", [(point, metrics[point.folder]) for point in points]


def test_metrics_of_decoders_and_their_differences_are_means_over_seeds(executed):
    run, points = executed
    metrics = read_metrics(run)
    assert (metrics["points.done"], metrics["points.failed"]) == (len(points), 0)
    means = {}
    for grid, (name, _) in DECODERS.items():
        own = [measured for point, measured in points if point.grid == grid]
        assert len(own) == 3
        for kind in ("basic", "chained", "sum"):
            values = [next(v for k, v in m.items() if k.endswith(f".em.{kind}")) for m in own]
            means[name, kind] = np.mean(values)
            assert metrics[f"qa.{name}.em.{kind}"] == pytest.approx(means[name, kind])
    for name in ("loop", "plain_parameters", "plain_flops"):
        difference = means["trm", "basic"] - means[name, "basic"]
        assert metrics[f"difference.{name}.basic"] == pytest.approx(difference)


def test_answer_names_the_rival_that_is_clearly_better(executed):
    text = (executed[0].parent / "out.ipynb").read_text()
    assert "**basic**: recursive worse than plain, same parameters" in text


def test_figures_cover_every_setting_of_the_grid(executed):
    run, points = executed
    tables = {path.stem: pd.read_csv(path) for path in (run / "figures").glob("*.csv")}
    for name in ("four", "pareto", "steps", "chains", "scenes", "width", "rounds"):
        assert (run / f"figures/{name}.png").stat().st_size > 5000
    distinct = {
        point.config.model_copy(update={"seed": 0}).digest()
        for point, _ in points
        if point.config.qa.scenes is None and point.config.qa.vision
    }
    assert len(tables["pareto"]) == len(distinct)
    assert set(tables["pareto"].seeds) == {3}
    steps = tables["steps"].query("questions == 'six basic kinds'")
    assert steps.groupby("variant").steps.apply(list).to_dict() == {
        "trained with 4": list(range(1, 13)),
        "trained with as many": [2, 4, 6, 8],
    }
    with_4 = steps[steps.variant == "trained with 4"].set_index("steps")["mean"]
    np.testing.assert_allclose(with_4, with_4.index / 20)
    assert tables["scenes"].groupby("variant").scenes.apply(list).to_dict() == {
        "plain": [500, 2000, 8000],
        "recursive": [500, 2000, 8000],
    }
    wide = tables["width"].query("questions == 'chains'")
    assert wide.groupby("variant").width.apply(list).to_dict() == {
        "plain": [8, 16, 32],
        "recursive": [8, 16, 32],
    }
    assert set(tables["rounds"].variant) == {
        "one round",
        "two rounds",
        "two rounds, a loss each",
        "no image, plain",
        "no image, recursive",
    }
    assert set(tables["paired"]["set"]) == {"basic", "chained"}
