"""03_trm_qa, executed by papermill on a smaller config; its aligner is trained first."""

import shutil

import pandas as pd
import pytest
from notebook_runs import card_values, printed_text, read_metrics, run_notebook

from edge_lib.config import FeatureSpec, load_config
from edge_lib.experiments.trm_qa import QA_SPLITS
from edge_lib.features.extract import write_features
from edge_lib.runs import Run

SMALL = (
    "data.questions.train_scenes=160 data.questions.val_scenes=20 data.questions.test_scenes=40 "
    "data.questions.max_objects=4 qa.train.epochs=24 qa.train.batch_size=64 "
    "qa.train.eval_every=150 evaluate.bootstrap=100 "
    "qa.plain.width=32 qa.trm.width=32 qa.plain.layers=2 qa.plain.lr=6e-3 qa.curriculum=null "
    "features.num_processes=1 "
)
ALIGNER = (
    "data.scenes.train_size=128 data.scenes.val_size=16 data.scenes.test_size=16 "
    "data.scenes.swap_size=2 train.batch_size=32 train.epochs=1 evaluate.tsne_rows=16 "
    "evaluate.tsne_perplexity=5 features.num_processes=1"
)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run folder and executed notebook. The aligner's run, below the repository, is removed.

    The features are stored before, so that no process is launched for them.
    """
    folder = tmp_path_factory.mktemp("qa")
    cache = f"data.cache_dir={folder / 'cache'}"
    points, aligner = f"sweep.folder={folder / 'points'}", f"{ALIGNER} {cache}"
    overrides = f"{SMALL} {cache} {points} 'aligner.overrides={aligner}'"
    config = load_config("params/tiny/trm_qa.yaml", overrides)
    aligner_config = load_config("params/tiny/align_qa.yaml", aligner)
    write_features(aligner_config.data, aligner_config.feature_spec)
    vision = {"vision": aligner_config.vision}
    write_features(
        config.data, FeatureSpec(vision, config.features, config.data.cache_dir), QA_SPLITS
    )
    aligner_run = Run.of(aligner_config, "01_align")
    try:
        yield folder / "run", run_notebook("03_trm_qa", folder, overrides)
    finally:
        shutil.rmtree(aligner_run.folder)


def test_aligner_is_trained_first_and_the_notebook_says_so(executed):
    assert "running 01_align.ipynb first" in printed_text(executed[1])


def test_metrics_have_every_kind_and_control(executed):
    metrics = read_metrics(executed[0])
    kinds = ("colour", "digit", "position", "count", "sum", "comparison", "chained", "chain3")
    for variant in ("plain", "trm", "blind", "plain_wrong_image", "trm_wrong_image", "majority"):
        for kind in kinds:
            assert (
                0 <= metrics[f"qa.{variant}.em.{kind}"] <= metrics[f"qa.{variant}.f1.{kind}"] <= 1
            )
    basic = [metrics[f"qa.trm.em.{kind}"] for kind in kinds[:6]]
    assert metrics["qa.trm.em"] == pytest.approx(sum(basic) / 6, abs=0.05)
    assert metrics["parameters.core.trm"] == pytest.approx(
        metrics["parameters.core.plain"], rel=0.01
    )


def test_decoder_learns_the_answers_of_each_kind(executed):
    """After little training it gives answers of the right kind, which it could not with shifted
    labels. The majority control gives one answer per kind.
    """
    metrics = read_metrics(executed[0])
    assert metrics["qa.plain.em.all"] > 0.8 * metrics["qa.majority.em.all"]
    assert metrics["qa.majority.em"] < 0.3


def test_cards_have_the_scores_of_each_decoder(executed):
    metrics = read_metrics(executed[0])
    folders = {path.parent for path in executed[0].parent.glob("points/**/best/qa.json")}
    cards = [values for folder in folders if (values := card_values(folder))]
    assert len(cards) == 2  # the control without images has none of its own
    for name in ("plain", "trm"):
        (card,) = [card for card in cards if any(f", {name}, " in key for key in card)]
        (value,) = [value for key, value in card.items() if key.startswith("em, basic, ")]
        assert value == metrics[f"qa.{name}.em"]


def test_figures_and_their_tables_are_written(executed):
    figures = executed[0] / "figures"
    for name in ("questions", "training", "by_kind", "answers", "attention"):
        assert (figures / f"{name}.png").stat().st_size > 5000
        assert len(pd.read_csv(figures / f"{name}.csv"))
