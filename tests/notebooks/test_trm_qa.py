"""03_trm_qa, executed by papermill on a smaller config; its aligner is made first."""

import json

import pandas as pd
import pytest
from notebook_runs import run_notebook

SMALL = (
    "data.questions.train_scenes=160 data.questions.val_scenes=20 data.questions.test_scenes=40 "
    "data.questions.max_objects=4 qa.train.epochs=60 qa.train.batch_size=64 "
    "qa.train.eval_every=150 evaluate.bootstrap=100 "
    "qa.plain.width=32 qa.trm.width=32 qa.plain.layers=2 qa.plain.lr=6e-3 qa.curriculum=null "
)
ALIGNER = (
    "data.scenes.train_size=128 data.scenes.val_size=16 data.scenes.test_size=16 "
    "data.scenes.swap_size=2 train.batch_size=32 train.epochs=1 evaluate.tsne_rows=16 "
    "evaluate.tsne_perplexity=5"
)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa")
    cache = f"data.cache_dir={folder / 'cache'}"
    points = f"sweep.folder={folder / 'points'}"
    aligner = f"'aligner.overrides={ALIGNER} {cache}'"
    notebook = run_notebook("03_trm_qa", folder, f"{SMALL} {cache} {points} {aligner}")
    return folder / "run", notebook


def test_the_aligner_is_made_first_and_the_notebook_says_so(executed):
    said = "".join(o.get("text", "") for c in executed[1].cells for o in c.get("outputs", []))
    assert "running 01_align.ipynb first" in said


def test_every_kind_and_control_is_in_the_metrics(executed):
    metrics = json.loads((executed[0] / "metrics.json").read_text())
    kinds = ("colour", "digit", "position", "count", "sum", "comparison", "chained", "chain3")
    for arm in ("plain", "trm", "blind", "plain_wrong_image", "trm_wrong_image", "majority"):
        for kind in kinds:
            assert 0 <= metrics[f"qa.{arm}.em.{kind}"] <= metrics[f"qa.{arm}.f1.{kind}"] <= 1
    basic = [metrics[f"qa.trm.em.{kind}"] for kind in kinds[:6]]
    assert metrics["qa.trm.em"] == pytest.approx(sum(basic) / 6, abs=0.05)
    assert metrics["parameters.core.trm"] == pytest.approx(
        metrics["parameters.core.plain"], rel=0.01
    )


def test_it_learns_how_each_kind_is_answered(executed):
    """Even so little training finds the words that answer a kind, which shifted labels would not
    let it; majority is what one answer for each kind can have."""
    metrics = json.loads((executed[0] / "metrics.json").read_text())
    assert metrics["qa.plain.em.all"] > 0.8 * metrics["qa.majority.em.all"]
    assert metrics["qa.majority.em"] < 0.3


def test_figures_and_their_numbers_are_there(executed):
    figures = executed[0] / "figures"
    for name in ("questions", "training", "by_kind", "answers", "attention"):
        assert (figures / f"{name}.png").stat().st_size > 5000
        assert len(pd.read_csv(figures / f"{name}.csv"))
